"""Reading adapters in both formats, and what is refused."""

import hashlib
import json
import math
import os

import numpy as np
import pytest

from mlxmesh_shared.errors import AdapterInvalid, AdapterNotFound
from mlxmesh_shared.lora.adapter_files import read_adapter
from tests.fakes.lora_adapters import random_layers, write_mlx_lm, write_peft, write_tensors

_Q, _DOWN = "model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj"
_SHAPES = {_Q: (12, 8), _DOWN: (8, 20)}
_LAYERS = random_layers(_SHAPES, rank=4)


def test_mlx_lm(tmp_path):
    read = read_adapter(write_mlx_lm(tmp_path, _LAYERS, scale=20.0))
    assert (read.format, read.rank) == ("mlx_lm", 4)
    assert read.modules == ("mlp.down_proj", "self_attn.q_proj")
    assert read.weights_bytes == 4 * 4 * (12 + 8 + 8 + 20)
    for path, (a, b) in _LAYERS.items():
        layer = read.layers[path]
        assert (layer.scale, layer.rank, layer.shape) == (20.0, 4, _SHAPES[path])
        np.testing.assert_array_equal(layer.a, a)
        np.testing.assert_array_equal(layer.b, b)


def test_peft_is_the_same_but_for_its_scale(tmp_path):
    read = read_adapter(write_peft(tmp_path, _LAYERS, alpha=16))
    assert read.format == "peft"
    for path, (a, b) in _LAYERS.items():
        np.testing.assert_array_equal(read.layers[path].a, a)
        np.testing.assert_array_equal(read.layers[path].b, b)
        assert read.layers[path].scale == 4.0


def test_rank_stabilized_scale(tmp_path):
    read = read_adapter(write_peft(tmp_path, _LAYERS, alpha=16, config={"use_rslora": True}))
    assert read.layers[_Q].scale == 16 / math.sqrt(4)


def test_patterns_of_ranks_and_alphas(tmp_path):
    layers = {**random_layers({_Q: (12, 8)}, rank=2), **random_layers({_DOWN: (8, 20)}, rank=4)}
    config = {
        "r": 4,
        "rank_pattern": {r"layers\.0\.self_attn.q_proj": 2},
        "alpha_pattern": {"down_proj": 32, "^model.layers.1.mlp.down_proj": 64, "proj": 1},
    }
    read = read_adapter(write_peft(tmp_path, layers, alpha=16, config=config))
    assert {path: layer.scale for path, layer in read.layers.items()} == {_Q: 8.0, _DOWN: 8.0}


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_narrow_types_are_widened_exactly(tmp_path, dtype):
    exact = {_Q: (np.full((8, 2), 0.5, np.float32), np.full((2, 12), -1.25, np.float32))}
    read = read_adapter(write_mlx_lm(tmp_path, exact, dtype=dtype))
    np.testing.assert_array_equal(read.layers[_Q].a, exact[_Q][0])
    np.testing.assert_array_equal(read.layers[_Q].b, exact[_Q][1])
    assert read.layers[_Q].a.dtype == np.float32
    assert read.weights_bytes == 2 * 2 * (8 + 12)


def test_the_digest_is_of_names_and_contents(tmp_path):
    one, same = write_mlx_lm(tmp_path / "1", _LAYERS), write_mlx_lm(tmp_path / "2", _LAYERS)
    (same / "README.md").write_text("not part of it")
    digest = read_adapter(one).digest
    assert digest == read_adapter(same).digest
    expected = hashlib.sha256()
    for name in ("adapter_config.json", "adapters.safetensors"):
        content = (one / name).read_bytes()
        expected.update(name.encode() + b"\0" + str(len(content)).encode() + b"\0" + content)
    assert digest == expected.hexdigest()
    assert digest != read_adapter(write_mlx_lm(tmp_path / "3", _LAYERS, scale=3.0)).digest


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors", ""])
def test_missing_files(tmp_path, missing):
    directory = write_peft(tmp_path / "a", _LAYERS)
    (directory / missing).unlink() if missing else None
    with pytest.raises(AdapterNotFound, match=missing or "adapter_config.json"):
        read_adapter(directory if missing else tmp_path / "b")


def test_a_pipe_is_no_file(tmp_path):
    directory = write_mlx_lm(tmp_path, _LAYERS)
    (directory / "adapters.safetensors").unlink()
    os.mkfifo(directory / "adapters.safetensors")
    with pytest.raises(AdapterNotFound, match=r"adapters\.safetensors"):
        read_adapter(directory)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"fine_tune_type": "dora"}, "fine_tune_type 'dora' is not supported"),
        ({"fine_tune_type": "full"}, "fine_tune_type 'full' is not supported"),
        ({"lora_parameters": None}, "neither peft_type nor lora_parameters"),
        ({"lora_parameters": {"rank": 4}}, "scale must be a number"),
        ({"lora_parameters": {"rank": 4, "scale": math.nan}}, "scale must be a number"),
        ({"lora_parameters": {"rank": 4, "scale": True}}, "scale must be a number"),
        ({"lora_parameters": {"rank": 2.5, "scale": 1}}, "rank must be a whole number"),
        ({"lora_parameters": {"rank": 8, "scale": 1}}, "its rank is 4, but .* says 8"),
    ],
)
def test_refused_configurations_of_mlx_lm(tmp_path, config, message):
    with pytest.raises(AdapterInvalid, match=message):
        read_adapter(write_mlx_lm(tmp_path, _LAYERS, config=config))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"bias": "all"}, "bias 'all' is not supported"),
        ({"lora_bias": True}, "lora_bias is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters is not supported"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is not supported"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes"),
        ({"init_lora_weights": []}, "init_lora_weights"),
        ({"r": 0}, "r must be a whole number"),
        ({"r": 8}, "its rank is 4, but .* says 8"),
        ({"lora_alpha": "16"}, "lora_alpha must be a number"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern must be an object"),
        ({"alpha_pattern": {"q_proj": None}}, "q_proj must be a number"),
        ({"alpha_pattern": {"(a|a)*": 1}}, "is not supported; write out"),
        ({"alpha_pattern": {"[": 1}}, "is not a pattern"),
    ],
)
def test_refused_configurations_of_peft(tmp_path, config, message):
    with pytest.raises(AdapterInvalid, match=message):
        read_adapter(write_peft(tmp_path, _LAYERS, config=config))


_A, _B = _LAYERS[_Q]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "has no matrices"),
        ({f"{_Q}.lora_a": _A}, "only one of its two"),
        ({f"{_Q}.lora_a": _A, f"{_Q}.lora_b": _B, f"{_Q}.m": _A}, "DoRA is not supported"),
        ({f"{_Q}.weight": _A}, "not a matrix of LoRA"),
        ({f"{_Q}.bias": _A}, "biases are not supported"),
        ({f"{_Q}.lora_a": _A[:, 0], f"{_Q}.lora_b": _B}, "must be a matrix"),
        ({f"{_Q}.lora_a": _A[:0], f"{_Q}.lora_b": _B}, "must be a matrix"),
        ({f"{_Q}.lora_a": _A[None], f"{_Q}.lora_b": _B[None]}, "adapters of experts"),
        ({f"{_Q}.lora_a": _A, f"{_Q}.lora_b": _B[:2]}, "the ranks 4 and 2"),
        ({f"{_Q}.lora_a": _A * np.inf, f"{_Q}.lora_b": _B}, "NaN or infinite"),
        ({"model.layers.0.mlp.experts.3.up_proj.lora_a": _A}, "adapters of experts"),
    ],
)
def test_refused_tensors(tmp_path, tensors, message):
    directory = write_mlx_lm(tmp_path, _LAYERS)
    write_tensors(directory / "adapters.safetensors", tensors)
    with pytest.raises(AdapterInvalid, match=message):
        read_adapter(directory)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "embeddings are not supported"),
        (f"base_model.model.{_Q}.lora_magnitude_vector.weight", "DoRA is not supported"),
        (f"base_model.model.{_Q}.base_layer.bias", "biases are not supported"),
        ("base_model.model.lm_head.modules_to_save.weight", "whole modules are not supported"),
    ],
)
def test_refused_tensors_of_peft(tmp_path, tensor, message):
    directory = write_peft(tmp_path, _LAYERS)
    write_tensors(directory / "adapter_model.safetensors", {tensor: _A})
    with pytest.raises(AdapterInvalid, match=message):
        read_adapter(directory)


def test_names_with_the_adapters_own_name(tmp_path):
    directory = write_peft(tmp_path, {_Q: (_A, _B)})
    name = f"base_model.model.{_Q}.lora_%s.default.weight"
    names = {name % "A": _A.T, name % "B": _B.T}
    write_tensors(directory / "adapter_model.safetensors", names)
    assert list(read_adapter(directory).layers) == [_Q]


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, (99).to_bytes(8, "little") + b"{"])
def test_damaged_weights(tmp_path, content):
    directory = write_mlx_lm(tmp_path, _LAYERS)
    (directory / "adapters.safetensors").write_bytes(content)
    with pytest.raises(AdapterInvalid, match="is damaged"):
        read_adapter(directory)


def test_other_types_of_values(tmp_path):
    directory = write_mlx_lm(tmp_path, _LAYERS)
    header = {"a.lora_a": {"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(8)
    (directory / "adapters.safetensors").write_bytes(content)
    with pytest.raises(AdapterInvalid, match="I64; supported are"):
        read_adapter(directory)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", '{"a":' * 80 + "1" + "}" * 80])
def test_unusable_configurations(tmp_path, text):
    directory = write_mlx_lm(tmp_path, _LAYERS)
    (directory / "adapter_config.json").write_text(text)
    with pytest.raises(AdapterInvalid, match=r"adapter_config\.json"):
        read_adapter(directory)


class TestCheckAgainst:
    """The modules of a model decide whether an adapter fits."""

    def test_the_same_paths(self, tmp_path):
        read = read_adapter(write_mlx_lm(tmp_path, _LAYERS))
        fitted = read.check_against({**_SHAPES, "model.layers.0.self_attn.k_proj": (4, 8)})
        assert fitted == dict(read.layers)

    def test_other_names_around_the_layers(self, tmp_path):
        read = read_adapter(write_peft(tmp_path, _LAYERS))
        shapes = {
            f"language_{path}".replace("model.", "model.model."): _SHAPES[path] for path in _SHAPES
        }
        assert set(read.check_against(shapes)) == {
            "language_model.model.layers.0.self_attn.q_proj",
            "language_model.model.layers.11.mlp.down_proj",
        }

    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            ({_Q: (12, 8)}, "model.layers.11.mlp.down_proj: the model has no such module"),
            ({**_SHAPES, _DOWN: (8, 21)}, "20 inputs and 8 outputs, but the model's has 21 inputs"),
            (
                {f"{at}.layers.{_Q[13:]}": (12, 8) for at in "ab"} | {_DOWN: (8, 20)},
                "q_proj: the model has no such module",
            ),
        ],
    )
    def test_what_does_not_fit(self, tmp_path, shapes, message):
        read = read_adapter(write_mlx_lm(tmp_path, _LAYERS))
        with pytest.raises(AdapterInvalid, match=message):
            read.check_against(shapes)

    def test_modules_outside_of_the_layers(self, tmp_path):
        layers = random_layers({"lm_head": (12, 8)})
        read = read_adapter(write_peft(tmp_path, layers))
        with pytest.raises(AdapterInvalid, match="lm_head: only modules of the layers"):
            read.check_against({"lm_head": (12, 8)})
