"""A running mesh for the tests of one module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.running_mesh import STDIO_TOOLS, RunningMesh, start_mesh, stop_mesh

HERE = Path(__file__).parent
TIMEOUT_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole meshes start here, several processes each: a busy machine needs time for it."""
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """One mesh for the tests of a module, serving `pocket`; the end checks that nothing is left."""
    running = start_mesh(tmp_path_factory.mktemp("mesh"), env=STDIO_TOOLS)
    yield running
    stop_mesh(running)
