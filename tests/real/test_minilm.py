"""all-MiniLM-L6-v2: its vectors are those of onnxruntime, and of a reference in numpy."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from mlxmesh_engine.encoder.inputs import TokenInput
from mlxmesh_engine.encoder.loader import LoadedEncoder, load_encoder
from mlxmesh_model.artifacts.folder import inspect
from mlxmesh_model.catalogue.models import ModelKind
from tests.fakes.encoder_models import Reference, pooled
from tests.fakes.minilm import minilm, reference_vectors
from tests.fakes.tiny_model import BLAS

REFERENCES = list(reference_vectors())
MIN_COSINE = 0.9999


@pytest.fixture(scope="module")
def directory() -> Path:
    return minilm()


@pytest.fixture(scope="module", params=["float32", "float16"])
def encoder(request: pytest.FixtureRequest, directory: Path) -> LoadedEncoder:
    return load_encoder(
        directory,
        kind="embedding",
        blas=BLAS,
        dtype=request.param,
        available_bytes=lambda: 2**33,
    )


@pytest.fixture(scope="module")
def texts(directory: Path) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    return [tokenizer.encode(text).ids for text, _, _ in REFERENCES]


def test_its_vectors_are_those_of_onnxruntime(encoder, texts):
    assert [len(text) for text in texts] == [tokens for _, tokens, _ in REFERENCES]
    exact = encoder.dtype == "float32"
    # A CPU computes in float16 a hundred times as slowly.
    chosen = [i for i, text in enumerate(texts) if exact or len(text) < 10]
    found = encoder.encode([TokenInput(np.array(texts[i], np.int32)) for i in chosen], lambda: None)
    expected = [REFERENCES[i][2] for i in chosen]
    cosines = [float(one @ other) for one, other in zip(found, expected, strict=True)]
    assert min(cosines) >= MIN_COSINE
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    if exact:
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_numpy_agrees(directory, texts):
    """Independent of the graph that made the held vectors: float64, from the weights here."""
    reference = Reference(directory)
    for text, (_, tokens, expected) in zip(texts, REFERENCES, strict=True):
        if tokens <= 16:
            vector = pooled(reference.hidden(text), "mean")
            np.testing.assert_allclose(vector / np.linalg.norm(vector), expected, atol=2e-6)


def test_the_catalogue_knows_what_it_is(directory):
    found = inspect(directory)
    assert (found.kind, found.dimensions) == (ModelKind.EMBEDDING, 384)
    assert (found.context_tokens, found.vocab_size, found.dtype) == (256, 30_522, "float32")
    assert found.parameters == pytest.approx(22.7e6, rel=0.01)
