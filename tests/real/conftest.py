"""A real model: SmolLM2-135M-Instruct as a GGUF file of 98 MB, fetched once into the cache."""

from pathlib import Path

import pytest

from mlxmesh_launcher.smollm2 import smollm2

HERE = Path(__file__).parent
TIMEOUT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the model, and time."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.real)
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def gguf_file() -> Path:
    return smollm2()
