"""When queues add and remove replicas."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.replicas.scaling import Scaling, ScalingRules
from mlxmesh_model.replicas.usage import Usage

RULES = ScalingRules(grow_wait_ms=1000, grow_after_s=3, shrink_after_s=60)


class Version:
    """A version whose replicas are ready at once."""

    def __init__(self, *, desired: int = 1, low: int = 1, high: int = 4) -> None:
        self.scaling = Scaling(RULES)
        self.desired, self.low, self.high = desired, low, high
        self.now_s = 0.0

    def see(self, seconds: float, *, ready: int | None = None, **usage: Any) -> int:
        """What it has after so many observations, one a second."""
        for _ in range(round(seconds)):
            self.now_s += 1
            ready_engines = self.desired if ready is None else ready
            self.desired = self.scaling.replicas(
                "m@1",
                Usage(ready_engines=ready_engines, **usage),
                desired=self.desired,
                low=self.low,
                high=self.high,
                now_s=self.now_s,
            )
        return self.desired


def test_a_replica_is_added_while_sequences_wait():
    version = Version()
    assert version.see(3, longest_wait_ms=1500, running=8, waiting=4) == 1
    assert version.see(1, longest_wait_ms=1500, running=8, waiting=4) == 2


def test_a_short_queue_adds_none():
    version = Version()
    for _ in range(20):
        assert version.see(2, longest_wait_ms=5000, running=8, waiting=9) == 1
        assert version.see(1, longest_wait_ms=10, running=8, waiting=1) == 1


def test_the_next_one_is_added_only_after_the_last_one_is_ready():
    version = Version()
    version.see(4, longest_wait_ms=1500, running=8, waiting=4)
    assert version.see(60, ready=1, longest_wait_ms=9000, running=8, waiting=9) == 2
    assert version.see(4, longest_wait_ms=9000, running=16, waiting=9) == 3


def test_the_bound_holds():
    version = Version(high=2)
    assert version.see(100, longest_wait_ms=9000, running=8, waiting=9) == 2


def test_a_replica_is_removed_after_a_calm_time():
    version = Version()
    version.see(4, longest_wait_ms=1500, running=8, waiting=4)
    assert version.see(60, running=3) == 2
    assert version.see(1, running=3) == 1
    assert version.see(1000) == 1


def test_none_is_removed_while_the_others_could_not_run_everything():
    version = Version()
    version.see(4, longest_wait_ms=1500, running=8, waiting=4)
    assert version.see(1000, running=7) == 2


def test_calm_times_do_not_add_up():
    version = Version(desired=2)
    for _ in range(10):
        version.see(50)
        assert version.see(1, running=9) == 2


def test_the_minimum_is_kept():
    version = Version(desired=3, low=2)
    assert version.see(1000) == 2
    assert Version(desired=1, low=2).see(1) == 2


@given(
    st.integers(0, 3),
    st.integers(0, 5),
    st.lists(
        st.tuples(st.floats(0, 100), st.integers(0, 9), st.integers(0, 20_000), st.booleans()),
        max_size=50,
    ),
)
def test_the_number_stays_within_the_bounds_and_moves_by_one(
    low: int, more: int, seen: list[tuple[float, int, int, bool]]
):
    low, high = max(1, low), max(1, low) + more
    scaling, desired, now_s = Scaling(RULES), low, 0.0
    for pause_s, running, wait_ms, ready in seen:
        now_s += pause_s
        usage = Usage(
            running=running,
            waiting=int(wait_ms > 0),
            longest_wait_ms=wait_ms,
            ready_engines=desired if ready else 0,
        )
        before = desired
        desired = scaling.replicas("m@1", usage, desired=desired, low=low, high=high, now_s=now_s)
        assert low <= desired <= high
        assert abs(desired - before) <= 1
