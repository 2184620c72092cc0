"""The forward pass for CPUs against mlx-lm's, in float32: log-probabilities within 1e-4."""

from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest
from mlx import nn
from numpy.typing import NDArray

from mlxmesh_engine.cache.kv_cache import BatchCache, Batching
from mlxmesh_engine.forward.llama_forward import LlamaForward
from mlxmesh_engine.forward.llama_weights import is_plain_llama, prepare_llama
from tests.fakes.engine_rig import load_model
from tests.fakes.tiny_model import VOCAB_SIZE, write_model

_TOLERANCE = 1e-4
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def mlx_lm_model(path: Path) -> nn.Module:
    return cast("Any", mlx_lm.utils).load_model(path)[0]


def log_probabilities(forward: Any, lengths: list[int]) -> list[NDArray[np.float32]]:
    """Of prompts of these lengths in one padded batch, then of three decode steps."""
    rng = np.random.default_rng(5)
    tokens = mx.array(rng.integers(3, VOCAB_SIZE, (len(lengths), max(lengths))), mx.uint32)
    cache = BatchCache.empty(forward, len(lengths), Batching.TOGETHER)
    cache.prepare(lengths)
    of_prompts = forward(tokens, cache=cache.layers)
    cache.finalize()
    read = [of_prompts[row, :length] for row, length in enumerate(lengths)]
    for step in range(3):
        column = mx.full((len(lengths), 1), 7 + step, mx.uint32)
        read += list(forward(column, cache=cache.layers))
    return [np.array(each - mx.logsumexp(each, axis=-1, keepdims=True)) for each in read]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 4},
        {"attention_bias": True, "mlp_bias": True},
        {"rope_traditional": True},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_scaling": _LLAMA3_ROPE},
        {"head_dim": 32},
        {"model_type": "qwen2"},
    ],
    ids=str,
)
@pytest.mark.parametrize("lengths", [[1], [9], [40, 3, 17]], ids=str)
def test_log_probabilities_equal_mlx_lms(
    tmp_path: Path, config: dict[str, Any], lengths: list[int]
) -> None:
    write_model(tmp_path, **config)
    expected = log_probabilities(mlx_lm_model(tmp_path), lengths)
    model = mlx_lm_model(tmp_path)
    assert is_plain_llama(model)
    found = log_probabilities(LlamaForward(prepare_llama(model)), lengths)
    for one, other in zip(expected, found, strict=True):
        assert np.abs(one - other).max() < _TOLERANCE


@pytest.mark.parametrize(
    "kind",
    [
        {"bits": 4},
        {"dtype": mx.bfloat16},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 16},
    ],
    ids=str,
)
def test_other_architectures_use_mlx_lm(tmp_path: Path, kind: dict[str, Any]) -> None:
    assert not is_plain_llama(mlx_lm_model(write_model(tmp_path, **kind)))
    loaded = load_model(tmp_path, dtype="as_shipped")
    assert not isinstance(loaded.model, LlamaForward)


def test_a_loaded_llama_uses_it(tmp_path: Path) -> None:
    loaded = load_model(write_model(tmp_path, dtype=mx.bfloat16), blas="openblas")
    assert isinstance(loaded.model, LlamaForward)
