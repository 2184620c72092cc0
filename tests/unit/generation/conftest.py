from pathlib import Path

import pytest

from mlxmesh_generation.text.tokenizer import ModelTokenizer
from tests.fakes import tokenizer_files


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return ModelTokenizer.load(tokenizer_files.byte_level(_new(tmp_path_factory)))


@pytest.fixture(scope="session")
def byte_level_in_sequence(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return ModelTokenizer.load(tokenizer_files.byte_level_in_sequence(_new(tmp_path_factory)))


@pytest.fixture(scope="session")
def metaspace(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return ModelTokenizer.load(tokenizer_files.metaspace(_new(tmp_path_factory)))


@pytest.fixture(scope="session")
def word_piece(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return ModelTokenizer.load(tokenizer_files.word_piece(_new(tmp_path_factory)))


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return ModelTokenizer.load(tokenizer_files.without_fast_form(_new(tmp_path_factory)))


def _new(factory: pytest.TempPathFactory) -> Path:
    return factory.mktemp("tokenizer") / "files"
