from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mlxmesh_shared.artifacts.manifest import Manifest
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.transfer_hosts import Network, Origin, write_files
from tests.integration.runtime.harness import RuntimeUnderTest, running_runtime


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[RuntimeUnderTest]:
    """A runtime with short limits, whose engines are fakes."""
    async with running_runtime(tmp_path) as running:
        yield running


# Hosts between which files travel.


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    async with AsyncExitStack() as stack:
        yield Network(tmp_path, InMemoryRegistry(), stack)


@pytest.fixture
def files() -> Origin:
    return Origin()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "source")


@pytest.fixture
def manifest(files: Origin, folder: Path) -> Manifest:
    return files.add(folder)
