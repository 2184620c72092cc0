"""mlx-lm computes with a converted GGUF file as the file defines it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from mlxmesh_model.gguf.conversion import convert
from mlxmesh_model.gguf.rope import Rope, llama3_divisors
from mlxmesh_model.gguf.weights import Dtype
from tests.fakes.gguf_files import Shape, logits, weights_of, write_gguf
from tests.fakes.tiny_model import BLAS

assert BLAS  # before mlx

import mlx.core as mx  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

IDS = [5, 17, 200, 33, 33, 280, 9, 64, 100, 2, 77, 150]
FAMILIES = [
    Shape("llama"),
    Shape("llama", tied=False, biases=True, head_dim=32),
    Shape("qwen2", tied=False),
    Shape("qwen3", head_dim=32, kv_heads=4),
]
KINDS = [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1]


def imported(tmp_path: Path, shape: Shape, dtype: Dtype | None = None) -> Any:
    """The converted model as mlx-lm loads it, computing in float32."""
    path = write_gguf(tmp_path / "model.gguf", shape)
    convert(path, tmp_path / "model", dtype, lambda done, total: None)
    model, _ = load_model(tmp_path / "model")
    model.set_dtype(mx.float32)
    return model


def scores(model: Any) -> np.ndarray:
    return np.array(model(mx.array([IDS]))[0])


def assert_equal(got: np.ndarray, expected: np.ndarray, tolerance: float = 2e-4) -> None:
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", FAMILIES, ids=["llama", "llama-biases", "qwen2", "qwen3"])
def test_the_scores_are_those_of_the_weights_in_the_file(tmp_path, shape, kind):
    shape = replace(shape, kind=kind)
    model = imported(tmp_path, shape)
    # Norms and biases are rounded to the type of the other weights if that is narrower.
    tolerance = {Type.F32: 2e-4, Type.BF16: 2e-2}.get(kind, 4e-3)
    assert_equal(scores(model), logits(tmp_path / "model.gguf", shape, IDS), tolerance)


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_0, Type.Q4_1], ids=lambda kind: kind.name)
def test_unpacked_to_float32_the_scores_are_equal(tmp_path, kind):
    shape = Shape(kind=kind, embedding_kind=Type.F16)
    model = imported(tmp_path, shape, Dtype.FLOAT32)
    assert_equal(scores(model), logits(tmp_path / "model.gguf", shape, IDS))


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_0, Type.Q4_1], ids=lambda kind: kind.name)
def test_packed_weights_are_exact(tmp_path, kind):
    """mlx unpacks them to exactly the numbers of llama.cpp, row by row."""
    shape = Shape("qwen2", kind=kind, embedding_kind=Type.Q8_0)
    imported(tmp_path, shape)
    arrays: Any = mx.load(str(tmp_path / "model/model.safetensors"))
    expected = weights_of(tmp_path / "model.gguf")
    for ours, theirs, bits in [
        ("model.embed_tokens", "token_embd", 8),
        ("model.layers.1.mlp.down_proj", "blk.1.ffn_down", 8 if kind == Type.Q8_0 else 4),
        ("model.layers.0.self_attn.q_proj", "blk.0.attn_q", 8 if kind == Type.Q8_0 else 4),
    ]:
        got = mx.dequantize(
            arrays[f"{ours}.weight"],
            arrays[f"{ours}.scales"].astype(mx.float32),
            arrays[f"{ours}.biases"].astype(mx.float32),
            group_size=32,
            bits=bits,
        )
        # A fused multiply-add rounds once where two steps round twice.
        np.testing.assert_allclose(
            np.array(got), expected[f"{theirs}.weight"], rtol=2e-7, atol=1e-7
        )


def test_embeddings_may_have_other_bits(tmp_path):
    shape = Shape(kind=Type.Q4_1, embedding_kind=Type.Q8_0)
    model = imported(tmp_path, shape)
    assert (model.model.embed_tokens.bits, model.layers[0].mlp.up_proj.bits) == (8, 4)
    assert_equal(scores(model), logits(tmp_path / "model.gguf", shape, IDS), 4e-3)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_every_weight_becomes_the_dtype_that_was_asked_for(tmp_path, dtype):
    path = write_gguf(tmp_path / "model.gguf", Shape(kind=Type.Q8_0))
    convert(path, tmp_path / "model", dtype, lambda done, total: None)
    arrays: Any = mx.load(str(tmp_path / "model/model.safetensors"))
    assert {array.dtype for array in arrays.values()} == {getattr(mx, dtype)}
    expected = weights_of(path)["blk.1.ffn_up.weight"]
    rounded = mx.array(expected).astype(getattr(mx, dtype))
    assert mx.array_equal(arrays["model.layers.1.mlp.up_proj.weight"], rounded)


def test_llama3_positions(tmp_path):
    divisors = llama3_divisors(Rope(500_000.0, 16, 16_384), 8.0, 8192).tolist()
    shape = Shape(theta=500_000.0, rope_divisors=divisors)
    model = imported(tmp_path, shape)
    assert model.args.rope_scaling["rope_type"] == "llama3"
    assert model.args.rope_scaling["factor"] == 8
    assert_equal(scores(model), logits(tmp_path / "model.gguf", shape, IDS))


def test_linear_positions(tmp_path):
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    shape = Shape(metadata=scaling)
    expected = logits
    model = imported(tmp_path, shape)
    path = tmp_path / "model.gguf"
    assert_equal(scores(model), expected(path, shape, IDS, position_scale=0.25))


def test_yarn_positions(tmp_path):
    """Against mlx-lm with the settings that the model's own configuration would have."""
    scaling = {
        "qwen2.rope.scaling.type": "yarn",
        "qwen2.rope.scaling.factor": 4.0,
        "qwen2.rope.scaling.original_context_length": 4096,
    }
    model = imported(tmp_path, Shape("qwen2", metadata=scaling))
    rope = model.layers[0].self_attn.rope
    assert type(rope).__name__ == "YarnRoPE"
    assert rope.mscale == pytest.approx(0.1 * np.log(4) + 1)
