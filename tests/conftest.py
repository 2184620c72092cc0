"""What every test of this project shares."""

import gc
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# A shell ignores Ctrl-C for what it runs in the background, and children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Shared machines pause at any moment: an example is judged by its result, never by its time.
settings.register_profile("mlxmesh", deadline=None, print_blob=True)
settings.load_profile("mlxmesh")

# They start whole meshes of many processes.
MESHES = (
    "tests/chaos/",
    "tests/clients/",
    "tests/console/",
    "tests/e2e/",
    "tests/hosts/",
    "tests/real/",
    "tests/scale/",
    "tests/soak/",
)
# It waits for minutes until certificates expire, and leaves the cores to the others meanwhile.
WAITS_LONGEST = "tests/hosts/test_renewal.py"
SLOWEST_FIRST = (WAITS_LONGEST, *MESHES, "tests/integration/", "tests/contract/")


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Without the garbage collector: what a cycle holds is not freed."""
    gc.disable()
    yield
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts whole files; the order within each stays."""

    def place(item: pytest.Item) -> int:
        is_below = map(item.nodeid.startswith, SLOWEST_FIRST)
        return next((index for index, below in enumerate(is_below) if below), len(SLOWEST_FIRST))

    items.sort(key=place)


class FromBothEnds(LoadScopeScheduling):
    """With several workers: the last one begins with the quick tests at the end, the others with
    the whole meshes, and all go on towards the middle. Meshes mostly wait, and the last worker uses
    the cores meanwhile; of three or more workers it leaves the meshes to the others, because two
    at a time are enough for two cores. Each file stays on one worker.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]

    def _working(self) -> list[WorkerController]:
        return [node for node in self.nodes if not node.shutting_down]

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node is self._working()[-1]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        working = self._working()
        is_extra = len(working) > 2 and node is working[-1]
        if is_extra and all(scope.startswith(MESHES) for scope in self.workqueue):
            node.shutdown()
        else:
            super()._reschedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Returns the test that ended its worker, which is not run again."""
        running = next(
            ((unit, nodeid) for unit in self.assigned_work[node].values()
             for nodeid, is_done in unit.items() if not is_done),
            None,
        )  # fmt: skip
        if running is not None:
            unit, nodeid = running
            unit[nodeid] = True
        super().remove_node(node)
        return running[1] if running is not None else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FromBothEnds:
    # In the order above, and not by the number of tests in a file.
    config.option.loadscopereorder = False
    return FromBothEnds(config, log)
