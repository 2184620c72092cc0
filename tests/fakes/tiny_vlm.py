"""Small random vision-language models of two families, as model directories with processors."""

import json
from pathlib import Path
from typing import Any

from tests.fakes.tiny_model import EOS, mx, nn
from tests.fakes.tokenizer_files import byte_level, with_special_tokens

VOCAB_SIZE = 576
IMAGE_TOKENS = {"smolvlm": "<image>", "qwen2_vl": "<|image_pad|>"}
_HIDDEN = 32
_TEXT = {
    "hidden_size": _HIDDEN,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "eos_token_id": EOS,
}
_QWEN_IMAGE = "'<|vision_start|><|image_pad|><|vision_end|>'"
_TEMPLATE = (
    "{{% for message in messages %}}{{{{ '<|' + message.role + '|>' }}}}"
    "{{% if message.content is string %}}{{{{ message.content }}}}{{% else %}}"
    "{{% for part in message.content %}}"
    "{{% if part.type == 'image' %}}{{{{ {image} }}}}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
    "{{% endfor %}}{{% endif %}}{{{{ '</s>' }}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|assistant|>' }}}}{{% endif %}}"
)


def write_smolvlm(path: Path, *, seed: int = 0) -> Path:
    """Positions are those of the tokens; large images are cut into tiles."""
    rows = [f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)]
    specials = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows]
    with_special_tokens(byte_level, path, specials, _TEMPLATE.format(image="'<image>'"))
    (image_id,) = _token_ids(path, ["<image>"])
    config = {
        "model_type": "smolvlm",
        "image_token_id": image_id,
        "scale_factor": 2,
        "eos_token_id": EOS,
        "vocab_size": VOCAB_SIZE,
        "text_config": _TEXT | {"model_type": "llama"},
        "vision_config": {
            "model_type": "smolvlm_vision",
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        },
    }
    preprocessor = {
        "image_processor_type": "SmolVLMImageProcessor",
        "size": {"longest_edge": 64},
        "max_image_size": {"longest_edge": 32},
        "do_image_splitting": True,
        "do_convert_rgb": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    _write_json(path / "processor_config.json", {"image_seq_len": 4})
    _write_json(path / "preprocessor_config.json", preprocessor)
    return _write_weights(path, config, seed)


def write_qwen2_vl(path: Path, *, seed: int = 0) -> Path:
    """Positions of image tokens have three parts; an image takes tokens by its size."""
    specials = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    with_special_tokens(byte_level, path, specials, _TEMPLATE.format(image=_QWEN_IMAGE))
    start, _, image, video = _token_ids(path, specials)
    config = _TEXT | {
        "model_type": "qwen2_vl",
        "image_token_id": image,
        "video_token_id": video,
        "vision_start_token_id": start,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": _HIDDEN,
            "num_heads": 4,
            "patch_size": 4,
            "spatial_patch_size": 4,
            "mlp_ratio": 2,
        },
    }
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 4,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": 64,
        "max_pixels": 4096,
    }
    _write_json(path / "preprocessor_config.json", preprocessor)
    return _write_weights(path, config, seed)


def _write_weights(path: Path, config: dict[str, Any], seed: int) -> Path:
    from mlx.utils import tree_flatten, tree_map
    from mlx_vlm.utils import get_model_and_args, update_module_configs

    _write_json(path / "config.json", config)
    loaded: Any = json.loads((path / "config.json").read_text())
    loaded.setdefault("text_config", {})
    family, _ = get_model_and_args(loaded)
    settings = family.ModelConfig.from_dict(loaded)
    modules = ["text", "vision", "perceiver", "projector", "audio"]
    mx.random.seed(seed)  # of biases
    model: nn.Module = family.Model(update_module_configs(settings, family, loaded, modules))
    keys = iter(mx.random.split(mx.random.key(seed), 1000))

    def random(weight: mx.array) -> mx.array:
        scale = 0.2 if weight.ndim > 1 else 0.05
        shift = weight if weight.ndim == 1 else 0
        return (mx.random.normal(weight.shape, key=next(keys)) * scale + shift).astype(mx.float32)

    model.update(tree_map(random, model.parameters()))
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(path / "model.safetensors"), weights, {"format": "mlx"})
    return path


def _token_ids(path: Path, tokens: list[str]) -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    return [tokenizer.token_to_id(token) or 0 for token in tokens]


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


WRITERS = {"smolvlm": write_smolvlm, "qwen2_vl": write_qwen2_vl}


def around(family: str, path: Path) -> tuple[list[int], list[int]]:
    """The tokens before and after an image token in prompts of this family."""
    if family != "qwen2_vl":
        return [], []
    start, end = _token_ids(path, ["<|vision_start|>", "<|vision_end|>"])
    return [start], [end]
