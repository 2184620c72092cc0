"""What every test of this project shares."""

from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Shared machines pause at any moment: an example is judged by its result, never by its time.
settings.register_profile("mlxmesh", deadline=None, print_blob=True)
settings.load_profile("mlxmesh")

WHOLE_MESHES = ("tests/chaos/", "tests/clients/", "tests/e2e/")
"""Their tests start meshes of many processes, which would disturb each other."""


SLOWEST_FIRST = (*WHOLE_MESHES, "tests/integration/", "tests/contract/")
"""The order: a long test that begins last would keep one worker busy while the others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts whole files; the order within each stays."""

    def place(item: pytest.Item) -> int:
        is_below = map(item.nodeid.startswith, SLOWEST_FIRST)
        return next((index for index, below in enumerate(is_below) if below), len(SLOWEST_FIRST))

    items.sort(key=place)


class OneMeshAtATime(LoadScopeScheduling):
    """With several workers: one of them has all whole meshes; each file stays on one."""

    def _split_scope(self, nodeid: str) -> str:
        return "mesh" if nodeid.startswith(WHOLE_MESHES) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneMeshAtATime:
    # In the order above, and not by the number of tests in a file.
    config.option.loadscopereorder = False
    return OneMeshAtATime(config, log)
