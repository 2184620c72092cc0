"""What every test of this project shares."""

from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Shared machines pause at any moment: an example is judged by its result, never by its time.
settings.register_profile("mlxmesh", deadline=None, print_blob=True)
settings.load_profile("mlxmesh")

WHOLE_MESHES = ("tests/chaos/", "tests/clients/", "tests/e2e/", "tests/real/")
"""Their tests start meshes of many processes, which would disturb each other."""


class OneMeshAtATime(LoadScopeScheduling):
    """With several workers (`-n 2`): one of them has all whole meshes, and each file has one."""

    def _split_scope(self, nodeid: str) -> str:
        return "mesh" if nodeid.startswith(WHOLE_MESHES) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneMeshAtATime:
    return OneMeshAtATime(config, log)
