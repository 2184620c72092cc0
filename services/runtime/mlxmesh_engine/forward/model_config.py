"""Reads a model directory's configuration, without MLX."""

from pathlib import Path
from typing import Any, cast

from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.host.json_file import UnusableJson, read_json_object

_DEFAULT_CONTEXT_TOKENS = 4096


def read_config(model_dir: Path) -> dict[str, Any]:
    """The configuration of a directory that is safe to load.

    Refuses everything but plain safetensors models, before any of their code can run.
    Raises: InvalidArgument, FeatureNotSupported.
    """
    config_path = model_dir / "config.json"
    if not config_path.is_file():
        raise InvalidArgument(
            f"{model_dir} has no config.json; name the directory of an mlx-lm model",
            field="model_dir",
        )
    try:
        config = read_json_object(config_path)
    except UnusableJson as error:
        raise InvalidArgument(
            f"{config_path} {error}; download it again", field="model_dir"
        ) from error
    if "model_type" not in config:
        raise InvalidArgument(f"{config_path} has no model_type", field="model_dir")
    for key in ("auto_map", "model_file"):
        if key in config:
            raise FeatureNotSupported(
                f"{config_path} refers to code in the model directory ({key}), which is never run; "
                "use a model whose architecture mlx-lm supports",
                field="model_dir",
            )
    if not any(model_dir.glob("model*.safetensors")):
        raise InvalidArgument(
            f"{model_dir} has no model*.safetensors; other weight formats are refused, "
            "convert it first (mlx_lm.convert)",
            field="model_dir",
        )
    return config


def context_tokens(config: dict[str, Any], configured: int) -> int:
    """The longest prompt plus output; `configured` may only lower it; 0 keeps the model's.

    Raises: InvalidArgument.
    """
    declared = _text_value(config, "max_position_embeddings")
    if declared is None:
        return configured or _DEFAULT_CONTEXT_TOKENS
    if configured > int(declared):
        raise InvalidArgument(
            f"the model's context has {declared} tokens, not {configured}; lower context_tokens",
            field="context_tokens",
        )
    return configured or int(declared)


def eos_token_ids(config: dict[str, Any]) -> frozenset[int]:
    """The model's end tokens."""
    ids = _text_value(config, "eos_token_id")
    if ids is None:
        return frozenset()
    return frozenset(cast("list[int]", ids) if isinstance(ids, list) else [int(ids)])


def vocab_size(config: dict[str, Any]) -> int:
    """The number of token ids. Raises: InvalidArgument."""
    size = _text_value(config, "vocab_size")
    if not isinstance(size, int) or size < 1:
        raise InvalidArgument("the model's config.json has no vocab_size", field="model_dir")
    return size


def kv_token_bytes(config: dict[str, Any]) -> int:
    """The size of one token's keys and values in float32; 0 if the configuration lacks it."""
    heads = _text_value(config, "num_key_value_heads") or _text_value(config, "num_attention_heads")
    layers, hidden = _text_value(config, "num_hidden_layers"), _text_value(config, "hidden_size")
    all_heads = _text_value(config, "num_attention_heads")
    head_dims = _text_value(config, "head_dim") or (hidden and all_heads and hidden // all_heads)
    return 2 * 4 * layers * heads * head_dims if layers and heads and head_dims else 0


def _text_value(config: dict[str, Any], key: str) -> Any:
    """A value of the language model, which is only a part of a multimodal configuration."""
    text_config = cast("dict[str, Any]", config.get("text_config") or {})
    value = config.get(key)
    return text_config.get(key) if value is None else value
