"""SmolLM2 imported: its tokens are llama.cpp's, its scores those of the file, its answer right."""

import dataclasses
import hashlib
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from mlxmesh_model.gguf.conversion import convert
from mlxmesh_model.gguf.header import read_header
from mlxmesh_model.gguf.metadata import Metadata
from mlxmesh_model.gguf.tokenizer import GgufTokenizer
from mlxmesh_model.gguf.weights import Dtype
from tests.fakes.gguf_files import Shape, logits
from tests.fakes.tiny_model import BLAS

assert BLAS  # before mlx

import mlx.core as mx  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

QUESTION = "What is the capital of France? Answer in one sentence."
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    f"<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)
SHAPE = Shape(hidden=576, heads=9, kv_heads=3, head_dim=64, intermediate=1536, layers=30,
              vocab=49_152, theta=100_000.0)  # fmt: skip
# What llama.cpp (b11739) makes of texts in many languages; `sha256_of_composed` is over its ids
# with other pre-tokenizers named in the same file, the texts composed as Qwen's own tokenizer does.
RECORDED = json.loads((Path(__file__).parents[1] / "data/llama_cpp_tokens.json").read_text())


@pytest.fixture(scope="module")
def packed(gguf_file, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("smollm2") / "packed"
    convert(gguf_file, directory, None, lambda done, total: None)
    return directory


@pytest.fixture(scope="module")
def plain(gguf_file, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("smollm2") / "bfloat16"
    convert(gguf_file, directory, Dtype.BFLOAT16, lambda done, total: None)
    return directory


@pytest.fixture(scope="module")
def expected(gguf_file, packed) -> np.ndarray:
    """The scores after each token of the prompt, by numpy over the file's own weights."""
    shape = dataclasses.replace(SHAPE)
    return logits(gguf_file, shape, prompt_ids(packed))


def prompt_ids(directory: Path) -> list[int]:
    return Tokenizer.from_file(str(directory / "tokenizer.json")).encode(PROMPT).ids


def scores(directory: Path) -> np.ndarray:
    model, _ = load_model(directory)
    model.set_dtype(mx.float32)
    return np.array(model(mx.array([prompt_ids(directory)]))[0])


def test_its_tokens_are_those_of_llama_cpp(packed):
    tokenizer = Tokenizer.from_file(str(packed / "tokenizer.json"))
    for text, ids in zip(RECORDED["texts"], RECORDED["ids"], strict=True):
        assert tokenizer.encode(text).ids == ids, text
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("name", RECORDED["sha256_of_composed"])
def test_every_pre_tokenizer_splits_as_llama_cpp_does(gguf_file, name):
    values = dict(read_header(gguf_file).metadata.values) | {"tokenizer.ggml.pre": name}
    if name in ("llama-bpe", "tekken"):
        del values["tokenizer.ggml.add_bos_token"]  # these add one where the file does not say
    tokenizer = GgufTokenizer(Metadata(values)).build()
    composed = [unicodedata.normalize("NFC", text) for text in RECORDED["texts"]]
    ids = [tokenizer.encode(text).ids for text in composed]
    digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
    assert digest == RECORDED["sha256_of_composed"][name]


def test_packed_its_scores_are_those_of_the_file(packed, expected):
    # Norms are rounded to float16.
    got = scores(packed)
    assert np.abs(got - expected).max() < 5e-3 * np.abs(expected).max()
    assert (got.argmax(axis=-1) == expected.argmax(axis=-1)).all()


def test_in_bfloat16_its_scores_are_those_of_the_file_but_for_rounding(plain, expected):
    got = scores(plain)
    assert np.abs(got - expected).max() < 5e-2 * np.abs(expected).max()
    assert got[-1].argmax() == expected[-1].argmax()
