"""Small random models of the Llama family, as mlx-lm model directories."""

import json
from pathlib import Path
from typing import Any

from mlxmesh_engine.forward.blas import prepare_blas

BLAS = prepare_blas()

import mlx.core as mx  # noqa: E402 - only after the BLAS
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten, tree_map  # noqa: E402
from mlx_lm.models import llama, qwen2  # noqa: E402

VOCAB_SIZE = 300
CONTEXT_TOKENS = 2048
EOS = 2


def write_model(
    path: Path,
    *,
    dtype: mx.Dtype = mx.float32,
    bits: int = 0,
    hidden: int = 64,
    layers: int = 2,
    vocab_size: int = VOCAB_SIZE,
    seed: int = 0,
    **config: Any,
) -> Path:
    """A model directory with weights so large that scores differ clearly."""
    settings = {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocab_size,
        "max_position_embeddings": CONTEXT_TOKENS,
        "tie_word_embeddings": True,
        "eos_token_id": EOS,
    } | config
    family = {"llama": llama, "qwen2": qwen2}[settings["model_type"]]
    model = family.Model(family.ModelArgs.from_dict(settings))
    keys = iter(mx.random.split(mx.random.key(seed), 1000))

    def random(weight: mx.array) -> mx.array:
        if weight.ndim == 1:
            return weight.astype(dtype)
        return (mx.random.normal(weight.shape, key=next(keys)) * 0.15).astype(dtype)

    model.update(tree_map(random, model.parameters()))
    if bits:
        nn.quantize(model, group_size=32, bits=bits)
        settings["quantization"] = {"group_size": 32, "bits": bits}
    path.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(path / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (path / "config.json").write_text(json.dumps(settings))
    return path
