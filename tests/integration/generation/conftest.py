from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mlxmesh_generation.text.tokenizer import ModelTokenizer
from tests.fakes import tokenizer_files
from tests.integration.generation.harness import Mesh, running_mesh


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_files.byte_level(tmp_path_factory.mktemp("tokenizer") / "byte-level")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir: Path) -> ModelTokenizer:
    return ModelTokenizer.load(tokenizer_dir)


@pytest.fixture
async def mesh(tmp_path: Path, tokenizer_dir: Path) -> AsyncIterator[Mesh]:
    async with running_mesh(tmp_path, tokenizer_dir) as running:
        yield running
