import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.router import Replica, pick
from mlxmesh_shared.errors import NoReplica, QueueFull

replicas = st.builds(
    Replica,
    engine_id=st.text(alphabet="abc", min_size=1, max_size=3),
    connected=st.booleans(),
    outstanding=st.integers(0, 5),
    capacity=st.none() | st.integers(1, 5),
)


def replica(
    name: str, outstanding: int, *, connected: bool = True, capacity: int | None = None
) -> Replica:
    return Replica(name, connected, outstanding, capacity)


def test_the_least_outstanding_work_wins() -> None:
    assert pick([replica("a", 3), replica("b", 1), replica("c", 2)]) == "b"


def test_of_equals_the_first_by_id_wins_whatever_the_order() -> None:
    assert pick([replica("b", 1), replica("a", 1)]) == "a"
    assert pick([replica("a", 1), replica("b", 1)]) == "a"


def test_a_replica_that_is_away_or_avoided_is_not_picked() -> None:
    assert pick([replica("a", 0, connected=False), replica("b", 9)]) == "b"
    assert pick([replica("a", 0), replica("b", 9)], avoid=["a"]) == "b"


def test_a_full_replica_is_passed_over() -> None:
    assert pick([replica("a", 2, capacity=2), replica("b", 5, capacity=6)]) == "b"


@pytest.mark.parametrize("candidates", [[], [replica("a", 0, connected=False)]])
def test_no_replica(candidates: list[Replica]) -> None:
    with pytest.raises(NoReplica) as caught:
        pick(candidates)
    assert caught.value.retry_delay_s


def test_every_queue_full() -> None:
    with pytest.raises(QueueFull) as caught:
        pick([replica("a", 2, capacity=2), replica("b", 3, capacity=3)])
    assert caught.value.retry_delay_s


@given(st.lists(replicas, max_size=6, unique_by=lambda replica: replica.engine_id))
def test_what_is_picked_can_take_it_and_nobody_who_can_has_less(candidates: list[Replica]) -> None:
    able = [r for r in candidates if r.connected and not r.full]
    try:
        chosen = pick(candidates)
    except (NoReplica, QueueFull):
        assert able == []
        return
    [picked] = [r for r in candidates if r.engine_id == chosen]
    assert picked in able
    assert picked.outstanding == min(r.outstanding for r in able)
