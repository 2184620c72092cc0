"""Where the ranks of a group run, and when a group is lost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from mlxmesh_runtime.engine_command import RankPlace
from mlxmesh_runtime.engine_record import EngineOptions, EngineSpec, RankRecord
from mlxmesh_runtime.files.file_fetch import Progress
from mlxmesh_runtime.group_ranks import Candidate, GroupRanks, ordered
from mlxmesh_runtime.rank_state import RankState
from mlxmesh_shared.errors import EngineLost, InsufficientMemory


class Runtimes:
    """Three runtimes; the one with the most memory refuses. `lose` ends all ranks."""

    own_id = "own"

    def __init__(self) -> None:
        self.lose = asyncio.Event()
        self.asked: list[tuple[str, int]] = []

    async def candidates(self) -> list[Candidate]:
        return [Candidate("own", 8), Candidate("full", 100), Candidate("other", 4)]

    async def hold(
        self, runtime_id: str, spec: EngineSpec, place: RankPlace
    ) -> AsyncIterator[RankState]:
        self.asked.append((runtime_id, place.rank))
        if runtime_id == "full":
            raise InsufficientMemory("no room")
        yield RankState(fetch=Progress(1, 2))
        yield RankState(10 + place.rank)
        await self.lose.wait()
        raise EngineLost("it was killed")


def spec(size: int) -> EngineSpec:
    options = EngineOptions(group_size=size)
    return EngineSpec(
        engine_id="e", model="m", model_version=1, model_dir=Path("/m"), options=options
    )


async def leader() -> str:
    return "127.0.0.1:1"


def test_ranks_spread_over_hosts_before_memory_counts() -> None:
    found = ordered(
        [Candidate("a", 100), Candidate("b", 10), Candidate("c", 20)], Counter({"a": 1})
    )
    assert [each.runtime_id for each in found] == ["c", "b", "a"]


async def test_the_next_runtime_runs_what_one_refuses() -> None:
    runtimes = Runtimes()
    ranks = GroupRanks(spec(3), runtimes)
    ranks.start(leader())
    async with asyncio.timeout(10):
        while len(ranks.records) < 2:
            await asyncio.sleep(0)
    assert ranks.records == (RankRecord(1, "other", 11), RankRecord(2, "own", 12))
    await asyncio.wait_for(ranks.wait_placed(), 10)
    assert runtimes.asked == [("full", 1), ("other", 1), ("full", 2), ("own", 2)]
    runtimes.lose.set()
    error = await asyncio.wait_for(ranks.wait_lost(), 10)
    assert error.message == "rank 1 on other: it was killed"
    await ranks.close()
    assert ranks.records == ()


async def test_without_a_runtime_that_has_room_the_group_is_lost() -> None:
    class Full(Runtimes):
        async def candidates(self) -> list[Candidate]:
            return [Candidate("full", 1)]

    ranks = GroupRanks(spec(2), Full())
    ranks.start(leader())
    error = await asyncio.wait_for(ranks.wait_lost(), 10)
    assert error.message == "no runtime can run rank 1 of the group: full: no room"
    await ranks.close()


async def test_a_runtime_that_says_nothing_of_the_fetch_is_given_up() -> None:
    class Silent(Runtimes):
        async def hold(
            self, runtime_id: str, spec: EngineSpec, place: RankPlace
        ) -> AsyncIterator[RankState]:
            yield RankState(fetch=Progress(1, 2))
            await asyncio.Event().wait()

    ranks = GroupRanks(spec(2), Silent(), silence_s=0.01)
    ranks.start(leader())
    error = await asyncio.wait_for(ranks.wait_lost(), 10)
    assert "other: nothing was heard of it for 0.01 s" in error.message
    await ranks.close()


async def test_a_single_process_waits_for_no_ranks() -> None:
    ranks = GroupRanks(spec(1), None)
    ranks.start(leader())
    await asyncio.wait_for(ranks.wait_placed(), 10)
    await ranks.close()
