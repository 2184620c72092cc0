import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.placement.router import ALWAYS_ALLOWED, MAX_OF_MEAN_LOAD, Replica, pick
from mlxmesh_shared.errors import NoReplica, QueueFull

replicas = st.builds(
    Replica,
    engine_id=st.text(alphabet="abc", min_size=1, max_size=3),
    connected=st.booleans(),
    outstanding=st.integers(0, 5),
    capacity=st.none() | st.integers(1, 5),
    ejected=st.booleans(),
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


def test_an_ejected_replica_is_picked_only_when_there_is_no_other() -> None:
    ejected = Replica("a", connected=True, outstanding=0, ejected=True)
    assert pick([ejected, replica("b", 9)]) == "b"
    assert pick([ejected, replica("b", 9)], warm_tokens={"a": 64}) == "b"
    assert pick([ejected, replica("b", 9, connected=False)]) == "a"
    assert pick([ejected, replica("b", 9)], avoid=["b"]) == "a"


def test_a_full_replica_is_passed_over() -> None:
    assert pick([replica("a", 2, capacity=2), replica("b", 5, capacity=6)]) == "b"


def test_a_replica_that_promised_all_its_memory_is_full() -> None:
    without_memory = Replica("a", True, 0, capacity=6, has_memory=False)
    assert pick([without_memory, replica("b", 5, capacity=6)]) == "b"
    with pytest.raises(QueueFull):
        pick([without_memory])


def test_a_warm_prefix_decides_before_the_load() -> None:
    loads = [replica("a", 4), replica("b", 3), replica("c", 3)]
    assert pick(loads, warm_tokens={"c": 64}) == "c"
    assert pick(loads, warm_tokens={"b": 64, "c": 96}) == "c"
    assert pick(loads, warm_tokens={"b": 64, "c": 64, "elsewhere": 640}) == "b"


def test_a_warm_replica_far_above_the_mean_is_passed_over() -> None:
    assert pick([replica("a", 9), replica("b", 6)], warm_tokens={"a": 64}) == "a"
    assert pick([replica("a", 10), replica("b", 6)], warm_tokens={"a": 64}) == "b"
    assert pick([replica("a", 10), replica("b", 6)], warm_tokens={"a": 64, "b": 32}) == "b"


def test_a_second_sequence_is_no_overload() -> None:
    assert pick([replica("a", 1), replica("b", 0)], warm_tokens={"a": 64}) == "a"
    assert pick([replica("a", 2), replica("b", 0)], warm_tokens={"a": 64}) == "b"


def test_a_warm_replica_that_cannot_take_it_does_not_count() -> None:
    away, full = replica("a", 0, connected=False), replica("b", 2, capacity=2)
    warm = {"a": 640, "b": 640, "c": 640}
    candidates = [away, full, replica("c", 1), replica("d", 1)]
    assert pick(candidates, avoid=["c"], warm_tokens=warm) == "d"


def test_among_equals_cold_prompts_are_spread_and_the_same_goes_to_the_same() -> None:
    equals = [replica("a", 1), replica("b", 1)]
    chosen = [pick(equals, spread_by=number) for number in range(1, 101)]
    assert chosen == [pick(equals[::-1], spread_by=number) for number in range(1, 101)]
    assert 30 < chosen.count("a") < 70
    assert pick([replica("a", 2), replica("b", 1)], spread_by=7) == "b"


@given(
    st.lists(replicas, max_size=6, unique_by=lambda replica: replica.engine_id),
    st.dictionaries(st.sampled_from(["a", "b", "c", "ab"]), st.integers(1, 500)),
    st.integers(0, 9),
)
def test_a_warm_prefix_never_overloads(
    candidates: list[Replica], warm_tokens: dict[str, int], spread_by: int
) -> None:
    able = sound(candidates)
    try:
        chosen = pick(candidates, warm_tokens=warm_tokens, spread_by=spread_by)
    except (NoReplica, QueueFull):
        return
    outstanding = {r.engine_id: r.outstanding for r in able}
    now = outstanding[chosen] + 1
    mean = (sum(outstanding.values()) + 1) / len(able)
    least = min(r.outstanding for r in able if not r.full)
    assert now <= max(ALWAYS_ALLOWED, MAX_OF_MEAN_LOAD * mean) or now == least + 1


@pytest.mark.parametrize("candidates", [[], [replica("a", 0, connected=False)]])
def test_no_replica(candidates: list[Replica]) -> None:
    with pytest.raises(NoReplica) as caught:
        pick(candidates)
    assert caught.value.retry_delay_s


def test_every_queue_full() -> None:
    with pytest.raises(QueueFull) as caught:
        pick([replica("a", 2, capacity=2), replica("b", 3, capacity=3)])
    assert caught.value.retry_delay_s


def sound(candidates: list[Replica]) -> list[Replica]:
    connected = [r for r in candidates if r.connected]
    return [r for r in connected if not r.ejected] or connected


@given(st.lists(replicas, max_size=6, unique_by=lambda replica: replica.engine_id))
def test_what_is_picked_can_take_it_and_nobody_who_can_has_less(candidates: list[Replica]) -> None:
    able = [r for r in sound(candidates) if not r.full]
    try:
        chosen = pick(candidates)
    except (NoReplica, QueueFull):
        assert able == []
        return
    [picked] = [r for r in candidates if r.engine_id == chosen]
    assert picked in able
    assert picked.outstanding == min(r.outstanding for r in able)
