"""Groups of ranks: what decides without a process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mlxmesh_engine.groups import operations as ops
from mlxmesh_engine.groups.convert import from_follower, from_leader, to_follower, to_leader
from mlxmesh_engine.groups.leadership import Leadership
from mlxmesh_engine.groups.messages import (
    Failed,
    FromFollower,
    FromLeader,
    Joined,
    Leaving,
    Serving,
    Started,
    Stopped,
)
from mlxmesh_engine.groups.peer_watch import PeerWatch, Silence
from mlxmesh_engine.groups.peers import GroupPeers
from mlxmesh_engine.groups.settings import of_rank
from mlxmesh_shared.errors import (
    EngineFailed,
    IllegalState,
    InvalidArgument,
    MeshError,
)
from mlxmesh_shared.settings import EngineSettings

NUMBERS = st.integers(1, 2**40)
ROW = st.integers(0, 1000)
TOKENS = st.lists(st.lists(st.integers(0, 2**32 - 1)).map(tuple)).map(tuple)
OPERATIONS = st.one_of(
    st.builds(ops.NewCache, NUMBERS, st.lists(st.integers(0, 2**40)).map(tuple)),
    st.builds(ops.PrefillRows, NUMBERS, TOKENS),
    st.builds(ops.DecodeRows, NUMBERS),
    st.builds(ops.ScoreRows, NUMBERS, TOKENS),
    st.builds(ops.ExtendCache, NUMBERS, NUMBERS),
    st.builds(ops.FilterCache, NUMBERS, st.lists(ROW).map(tuple)),
    st.builds(ops.CopyRows, NUMBERS, st.lists(ROW).map(tuple), NUMBERS),
    st.builds(
        ops.StoreTokens, NUMBERS, ROW, st.integers(-(10**6), 0), st.integers(-(10**6), 0), NUMBERS
    ),
    st.builds(ops.StoreState, NUMBERS, ROW, NUMBERS),
    st.builds(ops.TruncateRow, NUMBERS, ROW, NUMBERS),
    st.builds(ops.ConcatenateRows, st.lists(NUMBERS).map(tuple), NUMBERS),
    st.builds(ops.Free, st.lists(NUMBERS).map(tuple)),
)


@given(st.lists(OPERATIONS))
def test_operations_survive_the_wire(operations: list[ops.Operation]) -> None:
    assert from_leader(to_follower(operations)) == operations


@pytest.mark.parametrize("message", [Started(("a:1", "b:2"), ("a:3", "b:4")), Serving(), Stopped()])
def test_what_rank_0_says_survives_the_wire(message: FromLeader) -> None:
    assert from_leader(to_follower(message)) == message


@pytest.mark.parametrize("message", [Joined(1, 3, "a:1", "a:2"), Leaving()])
def test_what_a_rank_says_survives_the_wire(message: FromFollower) -> None:
    assert from_follower(to_leader(message)) == message


def test_a_failure_keeps_its_class() -> None:
    read = from_follower(to_leader(Failed(InvalidArgument("no", field="group_size"))))
    assert isinstance(read, Failed)
    assert isinstance(read.error, InvalidArgument)
    assert read.error.field == "group_size"


def test_the_rank_that_was_silent_for_longest_is_found() -> None:
    now_s = 0.0
    watch = PeerWatch([1, 2], silence_s=1.5, clock=lambda: now_s)
    now_s = 1.0
    watch.heard(2)
    assert watch.silent() is None
    now_s = 2.0
    assert watch.silent() == Silence(1, 2.0)
    watch.limit(5.0)
    assert watch.silent() is None
    now_s = 8.0
    assert watch.silent() is not None


def settings(tmp_path: Path, **given: object) -> EngineSettings:
    return EngineSettings.model_validate({"model_dir": tmp_path, "data_dir": tmp_path, **given})


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"group_size": 2, "group_rank": 2, "group_leader": "a:1"}, "group_rank"),
        ({"group_size": 2, "group_rank": 1}, "group_leader"),
        ({"group_size": 2, "group_leader": "a:1"}, "group_leader"),
        ({"group_size": 2, "group_split": "pipeline", "group_share_ppm": 1}, "group_share_ppm"),
        (
            {"group_size": 2, "group_rank": 1, "group_leader": "a:1", "group_share_ppm": 1},
            "group_share_ppm",
        ),
        ({"group_size": 2, "kind": "vision"}, "kind"),
        ({"group_size": 2, "speculative": "ngram"}, "speculative"),
        ({"group_size": 2, "kv_cache_type": "8bit"}, "kv_cache_type"),
        ({"group_size": 2, "prefix_disk_bytes": 1}, "prefix_disk_bytes"),
        ({"group_size": 2, "max_adapters": 1}, "max_adapters"),
        ({"group_size": 2, "backend": "simulated"}, "backend"),
        (
            {"group_size": 2, "group_listen": "10.0.0.1:0", "insecure_listen": True},
            "insecure_group",
        ),
    ],
)
def test_what_a_group_cannot_have_is_refused_by_name(
    tmp_path: Path, given: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        of_rank(settings(tmp_path, **given))
    assert refusal.value.field == field


def test_what_is_not_given_is_switched_off(tmp_path: Path) -> None:
    own = of_rank(settings(tmp_path, group_size=2))
    assert (own.speculative, own.max_adapters, own.prefix_disk_bytes) == ("off", 0, 0)


async def joining(*messages: FromFollower) -> AsyncIterator[FromFollower]:
    for message in messages:
        yield message
    await asyncio.Event().wait()


class Rig:
    """Rank 0 of a group of two, and why it was to end."""

    def __init__(self) -> None:
        self.ends: list[MeshError] = []
        self.left = 0
        self.now_s = 0.0
        self.peers = GroupPeers(
            0, 2, start_silence_s=30, end=self.ends.append, clock=lambda: self.now_s
        )
        self.leadership = Leadership(Joined(0, 2, "a:1", "a:2"), self.peers, self._leave)

    def _leave(self) -> None:
        self.left += 1


async def test_operations_reach_a_rank_in_order_then_it_stops() -> None:
    rig = Rig()
    stream = rig.leadership.serve(joining(Joined(1, 2, "b:1", "b:2"), Leaving()))
    assert await anext(stream) == Started(("a:1", "b:1"), ("a:2", "b:2"))
    for number in (1, 2, 3):
        rig.leadership.send(ops.DecodeRows(number))
    assert await anext(stream) == (ops.DecodeRows(1), ops.DecodeRows(2), ops.DecodeRows(3))
    rig.leadership.send(ops.DecodeRows(4))
    await asyncio.sleep(0)
    rig.leadership.begin_serving()
    rig.leadership.send(ops.DecodeRows(5))
    await asyncio.sleep(0)
    expected = [(ops.DecodeRows(4),), Serving(), (ops.DecodeRows(5),)]
    assert [await anext(stream) for _ in expected] == expected
    assert rig.left == 1
    stopping = asyncio.create_task(rig.leadership.stop())
    await asyncio.sleep(0)
    assert await anext(stream) == Stopped()
    await stream.aclose()
    await stopping
    await asyncio.sleep(0.4)  # longer than a rank may be gone before its Stop counts
    assert rig.ends == []


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (Leaving(), InvalidArgument),
        (Joined(1, 3, "b:1", "b:2"), InvalidArgument),
        (Joined(2, 2, "b:1", "b:2"), InvalidArgument),
        (Joined(0, 2, "b:1", "b:2"), IllegalState),
    ],
)
async def test_who_does_not_belong_to_the_group_is_refused(
    message: FromFollower, error: type[MeshError]
) -> None:
    with pytest.raises(error):
        await anext(Rig().leadership.serve(joining(message)))


async def test_a_rank_that_others_cannot_reach_is_refused() -> None:
    stream = Rig().leadership.serve(joining(Joined(1, 2, "127.0.0.1:1", "127.0.0.1:2")))
    with pytest.raises(IllegalState, match=r"rank 1 listens on 127\.0\.0\.1:1.* group_listen"):
        await asyncio.wait_for(anext(stream), 30)


async def test_ranks_of_one_host_may_all_listen_on_loopback() -> None:
    peers = GroupPeers(0, 2, start_silence_s=30, end=lambda error: None)
    leadership = Leadership(Joined(0, 2, "localhost:1", "localhost:2"), peers, lambda: None)
    stream = leadership.serve(joining(Joined(1, 2, "127.0.0.1:1", "127.0.0.1:2")))
    assert isinstance(await anext(stream), Started)
    await stream.aclose()


async def test_a_rank_that_fails_ends_the_group_with_its_reason() -> None:
    rig = Rig()
    failure = EngineFailed("no memory")
    stream = rig.leadership.serve(joining(Joined(1, 2, "b:1", "b:2"), Failed(failure)))
    await anext(stream)
    await asyncio.sleep(0)
    assert rig.ends == [failure]


async def test_a_lost_connection_ends_the_group() -> None:
    rig = Rig()
    rig.peers.lost(1)
    async with asyncio.timeout(30):
        while not rig.ends:
            await asyncio.sleep(0.01)
    assert "rank 1 has ended" in rig.ends[0].message


class Switch:
    """Counts what would keep the process alive."""

    def __init__(self) -> None:
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def disarm(self) -> None:
        """Nothing ends here."""


async def test_a_start_may_be_slower_than_a_group_that_serves() -> None:
    rig, switch = Rig(), Switch()
    rig.now_s = 29.0
    rig.peers.look()
    assert rig.ends == []
    rig.peers.protect(1.5, switch)
    rig.now_s = 30.4
    rig.peers.look()
    assert (rig.ends, switch.resets) == ([], 1)
    rig.now_s = 30.6
    rig.peers.look()
    assert "rank 1 was silent for 1.6 s" in rig.ends[0].message


async def test_a_rank_that_is_silent_for_too_long_ends_the_start() -> None:
    rig = Rig()
    rig.now_s = 31.0
    rig.peers.look()
    assert "rank 1 was silent for 31.0 s" in rig.ends[0].message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("group_start_silence_s", 0.9),
        ("group_start_silence_s", 3601),
        ("group_silence_s", 0.4),
        ("group_silence_s", 601),
        ("group_share_ppm", -1),
        ("group_share_ppm", 10**6),
    ],
)
def test_settings_that_are_out_of_range_are_refused(
    tmp_path: Path, name: str, value: float
) -> None:
    with pytest.raises(ValidationError, match=name):
        settings(tmp_path, **{name: value})
