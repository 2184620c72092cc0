"""Requests of one session meet at one replica, unless that one is overloaded."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.placement.router import ALWAYS_ALLOWED, MAX_OF_MEAN_LOAD, Replica, pick
from mlxmesh_shared.errors import QueueFull

NAMES = [f"engine-{number}" for number in range(8)]
SESSIONS = [f"session-{number}" for number in range(1000)]


def idle(names: list[str] = NAMES) -> list[Replica]:
    return [Replica(name, connected=True, outstanding=0) for name in names]


def chosen(candidates: list[Replica]) -> dict[str, str]:
    return {session: pick(candidates, session_id=session) for session in SESSIONS}


def test_a_session_stays_whatever_the_order_and_the_prompt() -> None:
    first = chosen(idle())
    assert chosen(idle()[::-1]) == first
    warm = dict.fromkeys(NAMES[:2], 640)
    again = {s: pick(idle(), session_id=s, warm_tokens=warm, spread_by=5) for s in SESSIONS}
    assert again == first


def test_sessions_are_spread() -> None:
    counts = Counter(chosen(idle()).values())
    assert set(counts) == set(NAMES)
    # 125 each; five standard deviations are 53.
    assert all(72 < count < 178 for count in counts.values())


def test_only_the_sessions_of_a_lost_replica_move() -> None:
    before, after = chosen(idle()), chosen(idle(NAMES[1:]))
    moved = {session for session in SESSIONS if before[session] != after[session]}
    assert moved == {session for session in SESSIONS if before[session] == NAMES[0]}
    assert len({after[session] for session in moved}) == len(NAMES) - 1


def test_a_new_replica_takes_sessions_and_moves_no_others() -> None:
    before, after = chosen(idle(NAMES[1:])), chosen(idle())
    moved = {session for session in SESSIONS if before[session] != after[session]}
    assert {after[session] for session in moved} == {NAMES[0]}


def test_a_hot_session_overflows_to_the_same_next_replica() -> None:
    loads = dict.fromkeys(NAMES, 0)
    for _ in range(800):
        candidates = [Replica(name, connected=True, outstanding=loads[name]) for name in NAMES]
        least, picked = min(loads.values()), pick(candidates, session_id="hot")
        loads[picked] += 1
        mean = sum(loads.values()) / len(NAMES)
        bound = max(ALWAYS_ALLOWED, MAX_OF_MEAN_LOAD * mean)
        assert loads[picked] <= bound or loads[picked] == least + 1
    busiest = max(loads, key=lambda name: loads[name])
    assert busiest == pick(idle(), session_id="hot")


def test_a_session_returns_once_its_replica_is_no_longer_busier() -> None:
    home = pick(idle(), session_id="s")
    busy = [Replica(name, True, 10 if name == home else 1) for name in NAMES]
    away = pick(busy, session_id="s")
    assert away != home
    assert pick(busy[::-1], session_id="s") == away
    assert pick([Replica(name, True, 10) for name in NAMES], session_id="s") == home


def test_a_session_does_not_wait_for_a_full_or_ejected_replica() -> None:
    home = pick(idle(), session_id="s")
    full = [Replica(name, True, 0, has_memory=name != home) for name in NAMES]
    ejected = [Replica(name, True, 0, ejected=name == home) for name in NAMES]
    assert pick(full, session_id="s") == pick(ejected, session_id="s") != home
    with pytest.raises(QueueFull):
        pick([Replica("a", True, 1, capacity=1)], session_id="s")


def test_without_a_session_the_prefix_decides() -> None:
    assert pick(idle(), warm_tokens={"engine-3": 64}) == "engine-3"


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=8),
    st.text(alphabet="abc", min_size=1, max_size=4),
)
def test_a_session_never_overloads(outstanding: list[int], session: str) -> None:
    candidates = [
        Replica(name, True, count) for name, count in zip(NAMES, outstanding, strict=False)
    ]
    picked = pick(candidates, session_id=session)
    now = outstanding[NAMES.index(picked)] + 1
    mean = (sum(outstanding) + 1) / len(outstanding)
    assert now <= max(ALWAYS_ALLOWED, MAX_OF_MEAN_LOAD * mean) or now == min(outstanding) + 1
