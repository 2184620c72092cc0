"""Which versions give way to others."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.replicas.eviction import (
    MIN_RESIDENCE_S,
    PATIENCE_S,
    UNSERVED_GRACE_S,
    Later,
    MakeRoom,
    Need,
    Never,
    Resident,
    Space,
    make_room,
    relieve,
)

NEED = Need("new@1", memory_bytes=10)


def resident(label: str, idle_s: float = 60, **changes: object) -> Resident:
    found = Resident(label, memory_bytes=10, idle_s=idle_s, ready_s=3600)
    return replace(found, **changes)


def host(*residents: Resident, free_bytes: int = 0, **changes: object) -> Space:
    return replace(Space("r1", residents, free_bytes), **changes)


def victims(answer: MakeRoom | Later | Never) -> list[str]:
    assert isinstance(answer, MakeRoom)
    return [one.label for one in answer.victims]


def test_the_least_recently_used_one_gives_way():
    space = host(resident("a@1", 5), resident("b@1", 50), resident("c@1", 20))
    assert victims(make_room(NEED, [space])) == ["b@1"]


def test_nobody_gives_way_where_there_is_room_or_soon_will_be():
    old = resident("a@1", 500)
    assert victims(make_room(NEED, [host(old, free_bytes=10)])) == []
    assert victims(make_room(NEED, [host(old, freed_soon_bytes=10)])) == []
    full = host(old, free_bytes=50, free_engines=0, freed_soon_engines=1)
    assert victims(make_room(NEED, [full])) == []


def test_as_few_as_possible_give_way():
    space = host(resident("a@1", 50, memory_bytes=2), resident("b@1", 20, memory_bytes=10))
    assert victims(make_room(NEED, [space])) == ["b@1"]
    both = Need("new@1", memory_bytes=12)
    assert victims(make_room(both, [space])) == ["a@1", "b@1"]


def test_a_host_has_room_for_so_many_engines():
    space = host(resident("a@1", 5), resident("b@1", 9), free_bytes=99, free_engines=0)
    assert victims(make_room(NEED, [space])) == ["b@1"]


def test_the_host_where_the_victim_was_unused_the_longest_makes_room():
    near = host(resident("a@1", 5))
    far = replace(host(resident("b@1", 500)), runtime_id="r2")
    answer = make_room(NEED, [near, far])
    assert isinstance(answer, MakeRoom)
    assert (answer.runtime_id, victims(answer)) == ("r2", ["b@1"])


def test_what_the_runtime_says_counts_more_than_what_it_seems_to_have():
    space = host(resident("a@1", 5), resident("b@1", 9), free_bytes=99, rejected=True)
    assert victims(make_room(NEED, [space])) == ["b@1"]
    assert victims(make_room(NEED, [replace(space, freed_soon_engines=1)])) == []
    assert isinstance(make_room(NEED, [replace(space, residents=())]), Never)


def test_a_version_that_has_not_served_yet_stays_for_a_while():
    fresh = resident("a@1", 1, served=False)
    assert isinstance(make_room(NEED, [host(fresh)]), Later)
    forgotten = replace(fresh, idle_s=UNSERVED_GRACE_S)
    assert victims(make_room(NEED, [host(forgotten)])) == ["a@1"]


def test_a_busy_version_gives_way_to_one_that_has_waited():
    older = resident("a@1", 0, busy=True, ready_s=99)
    newer = resident("b@1", 0, busy=True, ready_s=50)
    just_ready = resident("c@1", 0, busy=True, ready_s=MIN_RESIDENCE_S - 1)
    space = host(newer, just_ready, older)
    assert isinstance(make_room(NEED, [space]), Later)
    waited = replace(NEED, waited_s=PATIENCE_S)
    assert victims(make_room(waited, [space])) == ["a@1"]
    assert isinstance(make_room(replace(waited, urgent=False), [space]), Later)
    assert isinstance(make_room(waited, [host(just_ready)]), Later)


def test_what_may_never_be_unloaded_makes_the_load_fail():
    space = host(resident("a@1", 50, evictable=False), resident("b@1", 9, memory_bytes=5))
    assert isinstance(make_room(NEED, [space]), Never)
    assert isinstance(make_room(NEED, []), Never)
    # Not even its own older replica.
    assert isinstance(make_room(NEED, [host(resident("new@1", 50))]), Never)


def test_a_shortage_unloads_idle_versions_first():
    idle, busy = resident("a@1", 5), resident("b@1", 0, busy=True)
    assert relieve(host(idle, busy), 10) == (idle,)
    assert relieve(host(idle, busy), 100) == (idle,)
    assert relieve(host(busy), 1) == (busy,)
    assert relieve(host(busy), 1)[0].label == "b@1"
    assert relieve(host(idle, busy, freed_soon_bytes=10, freed_soon_engines=1), 10) == ()
    # One busy version at a time: the next pass sees what its end has freed.
    assert relieve(host(busy, freed_soon_bytes=1, freed_soon_engines=1), 10) == ()


RESIDENTS = st.lists(
    st.builds(
        Resident,
        label=st.text("abcdefgh", min_size=1, max_size=4),
        memory_bytes=st.integers(0, 40),
        engines=st.integers(1, 3),
        idle_s=st.floats(0, 100),
        busy=st.booleans(),
        ready_s=st.floats(0, 100),
        served=st.booleans(),
        starting=st.booleans(),
        evictable=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda one: one.label,
)
SPACES = st.lists(
    st.builds(
        Space,
        runtime_id=st.sampled_from(["r1", "r2", "r3"]),
        residents=RESIDENTS,
        free_bytes=st.integers(-20, 60),
        freed_soon_bytes=st.integers(0, 40),
        free_engines=st.integers(-2, 5),
        freed_soon_engines=st.integers(0, 2),
        rejected=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda space: space.runtime_id,
)
NEEDS = st.builds(
    Need,
    label=st.text("abcdefgh", min_size=1, max_size=4),
    memory_bytes=st.integers(1, 80),
    waited_s=st.floats(0, 20),
    urgent=st.booleans(),
)


@given(NEEDS, SPACES)
def test_only_those_give_way_that_may_and_there_is_room_then(need: Need, found: list[Space]):
    answer = make_room(need, found)
    if not isinstance(answer, MakeRoom):
        return
    [space] = [one for one in found if one.runtime_id == answer.runtime_id]
    for victim in answer.victims:
        assert victim in space.residents
        assert victim.evictable
        assert not victim.starting
        assert victim.label != need.label
        if victim.busy:
            assert need.urgent
            assert need.waited_s >= PATIENCE_S
            assert victim.ready_s >= MIN_RESIDENCE_S
        else:
            assert victim.served or victim.idle_s >= UNSERVED_GRACE_S
    if not space.rejected:
        freed = sum(one.memory_bytes for one in answer.victims)
        assert space.free_bytes + space.freed_soon_bytes + freed >= need.memory_bytes
        engines = sum(one.engines for one in answer.victims)
        assert space.free_engines + space.freed_soon_engines + engines >= 1


@given(NEEDS, SPACES)
def test_no_victim_is_superfluous(need: Need, found: list[Space]):
    answer = make_room(need, found)
    if not isinstance(answer, MakeRoom):
        return
    [space] = [one for one in found if one.runtime_id == answer.runtime_id]
    for victim in answer.victims:
        rest = [one for one in answer.victims if one is not victim]
        free_bytes = space.free_bytes + space.freed_soon_bytes
        enough = free_bytes + sum(one.memory_bytes for one in rest) >= need.memory_bytes
        engines = space.free_engines + space.freed_soon_engines + sum(one.engines for one in rest)
        assert not (enough and engines >= 1 and (rest or not space.rejected))


@given(NEEDS, SPACES)
def test_a_load_never_fails_where_unloading_others_would_make_room(need: Need, found: list[Space]):
    if isinstance(make_room(need, found), Never):
        for space in found:
            may_go = [one for one in space.residents if one.evictable and one.label != need.label]
            if space.rejected and not may_go:
                continue
            freed = space.freed_soon_bytes + sum(one.memory_bytes for one in may_go)
            engines = space.freed_soon_engines + sum(one.engines for one in may_go)
            fits = space.free_bytes + freed >= need.memory_bytes
            assert not (fits and space.free_engines + engines >= 1)


def test_room_that_was_promised_to_another_version_comes_back_later():
    space = host(free_bytes=0, promised_bytes=10, free_engines=0, promised_engines=1)
    assert isinstance(make_room(NEED, [space]), Later)
    assert isinstance(make_room(NEED, [replace(space, promised_bytes=0)]), Never)


def test_a_busy_version_that_starts_again_is_not_drained():
    need = replace(NEED, waited_s=PATIENCE_S)
    assert isinstance(make_room(need, [host(resident("a@1", 0, busy=True, starting=True))]), Later)
