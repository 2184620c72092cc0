"""The short runs here start whole meshes and take a while: `make test-rest` has them."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
TIMEOUT_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests beside this file, not those in folders below."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.chaos)
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
