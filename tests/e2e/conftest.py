"""A running mesh for the tests of one module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """One mesh for the tests of a module, serving `pocket`; the end checks that nothing is left."""
    running = start_mesh(tmp_path_factory.mktemp("mesh"))
    yield running
    stop_mesh(running)
