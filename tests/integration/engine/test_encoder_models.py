"""Vectors and scores equal those of references in numpy, alone and in a batch."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mlxmesh_engine.encoder.files import POOLING_MODES, Kind
from mlxmesh_engine.encoder.inputs import TokenInput
from mlxmesh_engine.encoder.loader import LoadedEncoder, load_encoder
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from tests.fakes.encoder_models import (
    CONTEXT,
    HIDDEN,
    NO,
    VOCAB,
    YES,
    Reference,
    pooled,
    write_encoder,
)
from tests.fakes.safetensors_files import read_tensors
from tests.fakes.tiny_model import BLAS, mx

BIDIRECTIONAL = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet")
LENGTHS = (1, 2, 7, 20, 21, 33, CONTEXT)
RNG = np.random.default_rng(1)
TEXTS = [RNG.integers(2, VOCAB, length).tolist() for length in LENGTHS]
MEAN = ("Pooling", {"pooling_mode_mean_tokens": True})
LAST = ("Pooling", {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False})


def load(path: Path, kind: Kind = "embedding", **options: Any) -> LoadedEncoder:
    return load_encoder(
        path, kind=kind, blas=BLAS, available_bytes=lambda: 2**34, **{"dtype": "auto", **options}
    )


def inputs(texts: Sequence[Sequence[int]], second_start: int = 0) -> list[TokenInput]:
    return [TokenInput(np.array(text, np.int32), second_start) for text in texts]


def no_progress() -> None: ...


def check(loaded: LoadedEncoder, expected: list[Any], second_start: int = 0) -> None:
    """Equal to the reference, and each text alone to the batch, by 1e-5."""
    given = inputs(TEXTS, second_start)
    found = loaded.encode(given, no_progress)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, atol=2e-5 * scale)
    alone = [loaded.encode([each], no_progress)[0] for each in given]
    np.testing.assert_allclose(found, alone, atol=1e-5 * scale)


@pytest.mark.parametrize("model_type", BIDIRECTIONAL)
@pytest.mark.parametrize("prefixed", [False, True])
def test_means_without_modules(tmp_path, model_type, prefixed):
    name = {"xlm-roberta": "roberta"}.get(model_type, model_type)
    prefix = f"{name}." if prefixed else ""
    path = write_encoder(tmp_path / "m", model_type, prefix=prefix)
    reference, loaded = Reference(path, prefix), load(path)
    assert (loaded.dimensions, loaded.context_tokens) == (HIDDEN, CONTEXT)
    check(loaded, [pooled(reference.hidden(text), "mean") for text in TEXTS])


@pytest.mark.parametrize("mode", POOLING_MODES)
@pytest.mark.parametrize("model_type", ["bert", "qwen3"])
def test_each_mode_of_pooling(tmp_path, model_type, mode):
    path = write_encoder(
        tmp_path / "m", model_type, modules=[("Pooling", {"pooling_mode": mode}), ("Normalize", {})]
    )
    reference, loaded = Reference(path), load(path)
    vectors = [pooled(reference.hidden(text), mode) for text in TEXTS]
    check(loaded, [vector / np.linalg.norm(vector) for vector in vectors])


def test_modes_are_joined_and_dense_layers_follow(tmp_path):
    joined = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    dense = {
        "in_features": 2 * HIDDEN,
        "out_features": 5,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    modules = [("Pooling", joined), ("Dense", dense), ("Normalize", {})]
    path = write_encoder(tmp_path / "m", "bert", modules=modules)
    reference, loaded = Reference(path), load(path)
    layer = read_tensors(path / "2_Dense" / "model.safetensors")
    expected = []
    for text in TEXTS:
        hidden = reference.hidden(text)
        both = np.concatenate([pooled(hidden, "cls"), pooled(hidden, "mean")])
        inner = np.tanh(layer["linear.weight"] @ both + layer["linear.bias"])
        expected.append(inner / np.linalg.norm(inner))
    assert loaded.dimensions == 5
    check(loaded, expected)


def test_a_second_text_has_the_second_token_type(tmp_path):
    path = write_encoder(tmp_path / "m", "bert")
    reference = Reference(path)
    texts = [text for text in TEXTS if len(text) > 5]
    found = load(path).encode(inputs(texts, 5), no_progress)
    expected = [pooled(reference.hidden(text, 5), "mean") for text in texts]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    other = load(path).encode(inputs(texts), no_progress)
    assert np.abs(found - other).max() > 0.01


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("model_type", [*BIDIRECTIONAL, "qwen3"])
def test_cross_encoders(tmp_path, model_type, labels):
    prefix = {"xlm-roberta": "roberta.", "qwen3": ""}.get(model_type, f"{model_type}.")
    path = write_encoder(tmp_path / "m", model_type, labels=labels, prefix=prefix)
    reference, loaded = Reference(path, prefix), load(path, "rerank")
    assert loaded.dimensions == 0
    check(loaded, [[reference.score(text)] for text in TEXTS])


@pytest.mark.parametrize("named", [False, True])
def test_a_decoder_scores_by_the_logits_of_yes_and_no(tmp_path, named):
    score = ("LogitScore", {"true_token_id": YES, "false_token_id": NO})
    path = write_encoder(tmp_path / "m", "qwen3", modules=[score] if named else None)
    if named:
        (path / "tokenizer.json").unlink()
    reference = Reference(path)
    check(load(path, "rerank"), [[reference.score(text)] for text in TEXTS])


def test_a_decoder_scores_by_the_logit_of_yes_alone(tmp_path):
    modules = [("LogitScore", {"true_token_id": YES, "false_token_id": None})]
    path = write_encoder(tmp_path / "m", "qwen3", modules=modules)
    reference = Reference(path)
    vectors = reference.tensors["embed_tokens.weight"]
    check(load(path, "rerank"), [[vectors[YES] @ reference.hidden(t)[-1]] for t in TEXTS])


def test_a_long_input_of_a_decoder_is_computed_in_parts(tmp_path):
    path = write_encoder(tmp_path / "m", "qwen3", modules=[LAST], prefix="model.")
    reference, loaded = Reference(path, "model."), load(path)
    texts = [RNG.integers(2, VOCAB, length).tolist() for length in (1200, 700)]
    parts: list[int] = []
    found = loaded.encode(inputs(texts), lambda: parts.append(1))
    assert len(parts) == 3
    expected = [reference.hidden(text)[-1] for text in texts]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_attention_of_long_inputs_in_parts(tmp_path, monkeypatch):
    """As on a GPU, and with so few scores at once that there are several parts."""
    from mlxmesh_engine.encoder import bidirectional, cpu_kernels

    path = write_encoder(tmp_path / "m", "mpnet")
    reference, loaded = Reference(path), load(path)
    expected = [pooled(reference.hidden(text), "mean") for text in TEXTS]
    monkeypatch.setattr(cpu_kernels, "_MAX_SCORES", 16)
    check(loaded, expected)
    monkeypatch.setattr(cpu_kernels, "serves", lambda array: False)
    check(loaded, expected)
    monkeypatch.setattr(bidirectional, "_MAX_SCORES", 4 * CONTEXT * len(TEXTS) * 7)
    check(loaded, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types(tmp_path, dtype):
    path = write_encoder(tmp_path / "m", "bert", modules=[MEAN, ("Normalize", {})])
    loaded = load(path, dtype=dtype)
    exact = load(path).encode(inputs(TEXTS), no_progress)
    found = loaded.encode(inputs(TEXTS), no_progress)
    assert loaded.dtype == dtype
    assert loaded.weights_bytes < load(path).weights_bytes
    cosines = (exact * found).sum(1)
    assert (cosines > (0.9999 if dtype == "float16" else 0.99)).all()
    assert np.abs(exact - found).max() > 0


def test_quantized_weights_are_unpacked(tmp_path):
    path = write_encoder(tmp_path / "packed", "bert")
    plain = write_encoder(tmp_path / "plain", "bert")
    unpacked = tensors(path)
    packed: dict[str, Any] = {}
    for name, array in list(unpacked.items()):
        packed[name] = array
        if array.ndim == 2 and array.shape[1] == HIDDEN and "LayerNorm" not in name:
            layer = name.removesuffix(".weight")
            words, scales, biases = mx.quantize(array, group_size=32, bits=8)
            packed |= {name: words, f"{layer}.scales": scales, f"{layer}.biases": biases}
            unpacked[name] = mx.dequantize(words, scales, biases, group_size=32, bits=8)
    mx.save_safetensors(str(path / "model.safetensors"), packed)
    mx.save_safetensors(str(plain / "model.safetensors"), unpacked)
    config = json.loads((path / "config.json").read_text())
    config["quantization"] = {"group_size": 32, "bits": 8}
    (path / "config.json").write_text(json.dumps(config))
    expected = load(plain).encode(inputs(TEXTS), no_progress)
    np.testing.assert_array_equal(load(path).encode(inputs(TEXTS), no_progress), expected)


@pytest.mark.parametrize(
    ("model_type", "config", "words"),
    [
        ("bert", {"hidden_act": "mish"}, "activation mish"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"is_decoder": True}, "is a decoder"),
        ("bert", {"num_hidden_layers": 4}, "no tensor"),
        ("qwen3", {"num_hidden_layers": 4}, "no tensor"),
        ("qwen3", {"hidden_size": 16}, "shape"),
        ("qwen3", {"use_sliding_window": True}, "sliding window"),
        ("qwen3", {"is_causal": False}, "both directions"),
        ("bert", {"model_type": "deberta-v2"}, "not from deberta-v2"),
        ("bert", {"auto_map": {}}, "never run"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(tmp_path, model_type, config, words):
    path = write_encoder(tmp_path / "m", model_type)
    written = json.loads((path / "config.json").read_text()) | config
    (path / "config.json").write_text(json.dumps(written))
    with pytest.raises(InvalidArgument, match=words):
        load(path)


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ([("WordWeights", {})], "WordWeights"),
        ([("Normalize", {})], "module Normalize"),
        ([], "no Pooling"),
        ([("Pooling", {})], "no mode"),
        ([("Pooling", {"pooling_mode": "cls+median"})], "median"),
        ([("Pooling", {"pooling_mode": "mean", "include_prompt": False})], "include_prompt"),
    ],
)
def test_modules_that_are_not_supported(tmp_path, modules, words):
    path = write_encoder(tmp_path / "m", "bert", modules=modules)
    with pytest.raises(FeatureNotSupported, match=words):
        load(path)


def test_heads_that_are_missing(tmp_path):
    plain = write_encoder(tmp_path / "plain", "bert")
    with pytest.raises(FeatureNotSupported, match="no head that scores"):
        load(plain, "rerank")
    cross = write_encoder(tmp_path / "cross", "bert", labels=1)
    with pytest.raises(FeatureNotSupported, match="scores texts"):
        load(cross, "embedding")
    many = write_encoder(tmp_path / "many", "bert", labels=3)
    with pytest.raises(FeatureNotSupported, match="3 classes"):
        load(many, "rerank")
    decoder = write_encoder(tmp_path / "decoder", "qwen3")
    (decoder / "tokenizer.json").write_text("{}")
    with pytest.raises(FeatureNotSupported, match="`yes` and `no`"):
        load(decoder, "rerank")


def tensors(directory: Path) -> dict[str, mx.array]:
    return cast("dict[str, mx.array]", mx.load(str(directory / "model.safetensors")))


def test_weights_that_are_not_finite(tmp_path):
    path = write_encoder(tmp_path / "m", "bert")
    arrays = tensors(path)
    arrays["embeddings.LayerNorm.bias"] = arrays["embeddings.LayerNorm.bias"] * float("nan")
    mx.save_safetensors(str(path / "model.safetensors"), arrays)
    with pytest.raises(InvalidArgument, match=r"embeddings\.LayerNorm\.bias"):
        load(path)


def test_a_shorter_context_may_be_configured(tmp_path):
    path = write_encoder(tmp_path / "m", "bert")
    (path / "sentence_bert_config.json").write_text('{"max_seq_length": 48}')
    assert load(path).context_tokens == 48
    assert load(path, context_tokens=20).context_tokens == 20
    with pytest.raises(InvalidArgument, match="context"):
        load(path, context_tokens=49)


def test_lengths_of_texts_differ():
    assert all(one < other for one, other in pairwise(map(len, TEXTS)))
