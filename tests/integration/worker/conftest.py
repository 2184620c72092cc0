from pathlib import Path

import pytest

from tests.fakes import tokenizer_files


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_files.byte_level(tmp_path_factory.mktemp("tokenizer") / "byte-level")
