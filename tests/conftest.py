"""What every test of this project shares."""

from pathlib import Path

import pytest
from hypothesis import settings

# Shared machines pause at any moment: an example is judged by its result, never by its time.
settings.register_profile("mlxmesh", deadline=None, print_blob=True)
settings.load_profile("mlxmesh")

HERE = Path(__file__).parent
WHOLE_MESHES = [HERE / name for name in ("chaos", "clients", "e2e")]
"""Their tests start meshes of many processes, which would disturb each other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers (`-n 2 --dist loadgroup`): one mesh at a time, and each file in one."""
    for item in items:
        mesh = any(item.path.is_relative_to(folder) for folder in WHOLE_MESHES)
        item.add_marker(pytest.mark.xdist_group("mesh" if mesh else str(item.path)))
