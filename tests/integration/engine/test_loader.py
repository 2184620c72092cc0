"""Loads real model directories: which are refused, and how weights are converted."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlxmesh_engine.forward.model_config import kv_token_bytes, read_config
from mlxmesh_shared.errors import FeatureNotSupported, InsufficientMemory, InvalidArgument
from tests.fakes.engine_rig import load_model, scores_after
from tests.fakes.tiny_model import CONTEXT_TOKENS, EOS, VOCAB_SIZE, write_model

PROMPT = list(range(3, 40))


def edit_config(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def tensor_bytes(file: Path) -> int:
    """A safetensors file has the header's size in 8 bytes, the header, and the tensors."""
    content = file.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


def test_properties_of_a_plain_model(tmp_path: Path) -> None:
    loaded = load_model(write_model(tmp_path))
    assert loaded.vocab_size == VOCAB_SIZE
    assert loaded.context_tokens == CONTEXT_TOKENS
    assert loaded.eos_token_ids == {EOS}
    assert loaded.dtype == "float32"
    assert loaded.weights_bytes == tensor_bytes(tmp_path / "model.safetensors")


def test_the_token_size_is_measured_and_half_of_the_memory_is_for_it(
    tmp_path: Path,
) -> None:
    loaded = load_model(write_model(tmp_path), available_bytes=2**30)
    assert loaded.kv.token_bytes == kv_token_bytes(read_config(tmp_path)) > 0
    assert loaded.kv.capacity_bytes == 2**29


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_narrow_weights_are_expanded_exactly(tmp_path: Path, dtype: mx.Dtype) -> None:
    write_model(tmp_path, dtype=dtype)
    expanded = load_model(tmp_path, blas="openblas")
    shipped = load_model(tmp_path, dtype="as_shipped")
    assert expanded.dtype == "float32"
    assert "expanded from" in expanded.dtype_note
    assert shipped.dtype == str(dtype).removeprefix("mlx.core.")
    assert expanded.weights_bytes == 2 * shipped.weights_bytes
    gap = np.abs(scores_after(expanded, PROMPT) - scores_after(shipped, PROMPT)).max()
    assert 0 < gap < 1.0


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_quantized_weights_are_unpacked(tmp_path: Path, bits: int, dtype: mx.Dtype) -> None:
    write_model(tmp_path, bits=bits, dtype=dtype)
    expanded = load_model(tmp_path, blas="openblas")
    shipped = load_model(tmp_path, dtype="as_shipped")
    assert expanded.dtype == "float32"
    assert f"{bits}-bit" in expanded.dtype_note
    assert expanded.weights_bytes > 3 * shipped.weights_bytes * (bits / 8)
    one, other = scores_after(expanded, PROMPT), scores_after(shipped, PROMPT)
    assert np.abs(one - other).max() < (1e-3 if dtype == mx.float32 else 1.0)


def test_quantized_weights_stay_packed_where_memory_is_short(tmp_path: Path) -> None:
    write_model(tmp_path, bits=4, dtype=mx.bfloat16)
    loaded = load_model(tmp_path, blas="openblas", available_bytes=100_000)
    assert loaded.dtype == "float32"
    assert "computed in float32" in loaded.dtype_note
    assert loaded.weights_bytes < 100_000


def test_an_explicit_dtype_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, dtype=mx.bfloat16)
    with pytest.raises(InsufficientMemory):
        load_model(tmp_path, dtype="float32", available_bytes=1000)


def test_the_configured_context_must_fit_the_models(tmp_path: Path) -> None:
    write_model(tmp_path)
    assert load_model(tmp_path, context_tokens=100).context_tokens == 100
    with pytest.raises(InvalidArgument) as caught:
        load_model(tmp_path, context_tokens=CONTEXT_TOKENS + 1)
    assert caught.value.field == "context_tokens"


def test_end_tokens_of_the_generation_config_count(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert load_model(tmp_path).eos_token_ids == {7, 9}


def test_a_model_without_end_token_has_none(tmp_path: Path) -> None:
    assert load_model(write_model(tmp_path, eos_token_id=None)).eos_token_ids == frozenset()


@pytest.mark.parametrize("key", ["auto_map", "model_file"])
def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path, key: str) -> None:
    edit_config(write_model(tmp_path), **{key: "evil.py"})
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(FeatureNotSupported, match=key):
        load_model(tmp_path)


def test_other_weight_formats_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InvalidArgument, match="safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize("config", [None, b"not json", b"[]", b"{}", b"\xff\xfe"])
def test_a_directory_without_a_proper_config_is_refused(
    tmp_path: Path, config: bytes | None
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(InvalidArgument) as caught:
        read_config(tmp_path)
    assert caught.value.field == "model_dir"


def spoil(folder: Path, name: str, value: float) -> None:
    """Replaces the last number of a tensor."""
    file = str(folder / "model.safetensors")
    tensors: Any = mx.load(file)
    flat = tensors[name].flatten()
    flat[-1] = value
    tensors[name] = flat.reshape(tensors[name].shape)
    mx.save_safetensors(file, tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("loaded_as", ["auto", "as_shipped"])
def test_weights_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, value: float, dtype: mx.Dtype, loaded_as: str
) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    spoil(write_model(tmp_path, dtype=dtype), name, value)
    with pytest.raises(InvalidArgument, match=f"{name} .*NaN or infinite"):
        load_model(tmp_path, dtype=loaded_as)


@pytest.mark.parametrize("part", ["scales", "biases"])
@pytest.mark.parametrize("loaded_as", ["auto", "as_shipped"])
def test_scales_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, part: str, loaded_as: str
) -> None:
    name = f"model.layers.0.self_attn.q_proj.{part}"
    spoil(write_model(tmp_path, bits=4, dtype=mx.bfloat16), name, float("nan"))
    with pytest.raises(InvalidArgument, match=f"{name} .*NaN or infinite"):
        load_model(tmp_path, dtype=loaded_as, blas="openblas")


def test_weights_that_overflow_the_configured_dtype_are_refused_by_name(tmp_path: Path) -> None:
    spoil(write_model(tmp_path), "model.norm.weight", 1e6)
    assert load_model(tmp_path).dtype == "float32"
    with pytest.raises(InvalidArgument, match=r"model\.norm\.weight .*does not fit into float16"):
        load_model(tmp_path, dtype="float16")


@pytest.mark.parametrize(
    "changes",
    [{"model_type": "no_such_architecture"}, {"hidden_size": 96}, {"num_hidden_layers": 3}],
)
def test_a_model_that_mlx_lm_cannot_load_is_a_clear_error(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    edit_config(write_model(tmp_path), **changes)
    with pytest.raises(InvalidArgument, match="cannot load"):
        load_model(tmp_path)


def test_a_damaged_weight_file_is_a_clear_error(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    with pytest.raises(InvalidArgument):
        load_model(tmp_path)
