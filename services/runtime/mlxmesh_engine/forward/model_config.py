"""What a model directory's configuration says; read without MLX."""

from pathlib import Path
from typing import Any, cast

from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.host.json_file import UnusableJson, read_json_object

_DEFAULT_CONTEXT_TOKENS = 4096


def read_config(model_dir: Path) -> dict[str, Any]:
    """The configuration of a directory that may be loaded.

    Refuses what is no plain safetensors model before anything of it is opened as code.
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
        raise InvalidArgument(f"{config_path} names no model_type", field="model_dir")
    for key in ("auto_map", "model_file"):
        if key in config:
            raise FeatureNotSupported(
                f"{config_path} asks to run code that comes with the model ({key}), which is never "
                "done; use a model whose architecture mlx-lm knows",
                field="model_dir",
            )
    if not any(model_dir.glob("model*.safetensors")):
        raise InvalidArgument(
            f"{model_dir} has no model*.safetensors; other weight formats are refused, "
            "convert it first (mlx_lm.convert)",
            field="model_dir",
        )
    return config


def context_tokens(config: dict[str, Any], asked: int) -> int:
    """The longest prompt plus output; `asked` may only shorten it, 0 leaves it.

    Raises: InvalidArgument.
    """
    declared = _of_text(config, "max_position_embeddings")
    if declared is None:
        return asked or _DEFAULT_CONTEXT_TOKENS
    if asked > int(declared):
        raise InvalidArgument(
            f"the model reads at most {declared} tokens, fewer than {asked}; lower context_tokens",
            field="context_tokens",
        )
    return asked or int(declared)


def eos_token_ids(config: dict[str, Any]) -> frozenset[int]:
    """The model's own end tokens."""
    ids = _of_text(config, "eos_token_id")
    if ids is None:
        return frozenset()
    return frozenset(cast("list[int]", ids) if isinstance(ids, list) else [int(ids)])


def vocab_size(config: dict[str, Any]) -> int:
    """How many token ids there are. Raises: InvalidArgument."""
    size = _of_text(config, "vocab_size")
    if not isinstance(size, int) or size < 1:
        raise InvalidArgument("the model's config.json tells no vocab_size", field="model_dir")
    return size


def kv_token_bytes(config: dict[str, Any]) -> int:
    """What keys and values of one token take in float32; 0 when the configuration does not tell."""
    heads = _of_text(config, "num_key_value_heads") or _of_text(config, "num_attention_heads")
    layers, hidden = _of_text(config, "num_hidden_layers"), _of_text(config, "hidden_size")
    all_heads = _of_text(config, "num_attention_heads")
    head_dims = _of_text(config, "head_dim") or (hidden and all_heads and hidden // all_heads)
    return 2 * 4 * layers * heads * head_dims if layers and heads and head_dims else 0


def _of_text(config: dict[str, Any], key: str) -> Any:
    """A key of the language model, which in a multimodal configuration is one part of several."""
    text_config = cast("dict[str, Any]", config.get("text_config") or {})
    value = config.get(key)
    return text_config.get(key) if value is None else value
