"""Where the ranks of a group run, and when a group is lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from mlxmesh_runtime.engine_command import RankPlace
from mlxmesh_runtime.engine_record import EngineOptions, EngineSpec, ModelFiles, RankRecord
from mlxmesh_runtime.files.file_fetch import Progress
from mlxmesh_runtime.group_ranks import GroupRanks
from mlxmesh_runtime.memory_guard import GIB
from mlxmesh_runtime.rank_placement import Candidate
from mlxmesh_runtime.rank_state import RankState
from mlxmesh_shared.errors import EngineLost, InsufficientMemory


class Runtimes:
    """Three runtimes; the one with the most memory refuses. `lose` ends all ranks."""

    own_id = "own"

    def __init__(self) -> None:
        self.lose = asyncio.Event()
        self.asked: list[tuple[str, int]] = []
        self.shares: list[int] = []

    async def candidates(self) -> list[Candidate]:
        return [
            Candidate("own", 8 * GIB),
            Candidate("full", 100 * GIB, 0.3),
            Candidate("other", 4 * GIB, 0.5),
            Candidate("silent", 0, problem="it did not answer"),
        ]

    async def hold(
        self, runtime_id: str, spec: EngineSpec, place: RankPlace
    ) -> AsyncIterator[RankState]:
        self.asked.append((runtime_id, place.rank))
        self.shares.append(place.share_ppm)
        if runtime_id == "full":
            raise InsufficientMemory("no room")
        yield RankState(fetch=Progress(1, 2))
        yield RankState(10 + place.rank)
        await self.lose.wait()
        raise EngineLost("it was killed")


def spec(size: int, split: str = "tensor", weights_bytes: int = 0) -> EngineSpec:
    return EngineSpec(
        engine_id="e",
        model="m",
        model_version=1,
        model_dir=Path("/nowhere/m"),
        options=EngineOptions(group_size=size, group_split=split),
        files=ModelFiles("a" * 64, weights_bytes),
    )


async def leader() -> str:
    return "127.0.0.1:1"


async def test_the_next_runtime_runs_what_one_refuses() -> None:
    runtimes = Runtimes()
    ranks = GroupRanks(spec(3), runtimes)
    ranks.start(leader())
    async with asyncio.timeout(30):
        while len(ranks.records) < 2:
            await asyncio.sleep(0)
    assert ranks.records == (RankRecord(1, "other", 11, 0.5), RankRecord(2, "own", 12))
    await asyncio.wait_for(ranks.wait_placed(), 30)
    assert runtimes.asked == [("full", 1), ("other", 1), ("own", 2)]
    assert not any(runtimes.shares)
    runtimes.lose.set()
    error = await asyncio.wait_for(ranks.wait_lost(), 30)
    assert error.message == "rank 1 on other: it was killed"
    await ranks.close()
    assert ranks.records == ()


async def test_without_a_runtime_that_has_room_the_group_is_lost() -> None:
    class Full(Runtimes):
        async def candidates(self) -> list[Candidate]:
            return [Candidate("full", 1)]

    ranks = GroupRanks(spec(2), Full())
    ranks.start(leader())
    error = await asyncio.wait_for(ranks.wait_lost(), 30)
    assert error.message == "no runtime can run rank 1 of the group: full: no room"
    await ranks.close()


async def test_ranks_get_layers_by_memory_and_others_fill_in_for_one_that_refuses() -> None:
    runtimes = Runtimes()
    weights_bytes = 8 * GIB
    ranks = GroupRanks(spec(2, "pipeline", weights_bytes), runtimes)
    ranks.start(leader())
    await asyncio.wait_for(ranks.wait_placed(), 30)
    assert runtimes.asked == [("full", 1), ("other", 1)]
    # Rank 0 has 8 GiB and what is reserved for it; each process needs 256 MiB beside its layers.
    own = 8 + 4
    assert runtimes.shares == [int(1e6 * 99.75 / (99.75 + own)), int(1e6 * 3.75 / (3.75 + own))]
    await ranks.close()


async def test_who_does_not_answer_is_named() -> None:
    class Silent(Runtimes):
        async def candidates(self) -> list[Candidate]:
            return [(await super().candidates())[-1]]

    ranks = GroupRanks(spec(2), Silent())
    ranks.start(leader())
    error = await asyncio.wait_for(ranks.wait_lost(), 30)
    assert error.message.endswith("rank 1 of the group: silent: it did not answer")
    await ranks.close()


async def test_an_unexpected_error_ends_the_start() -> None:
    class Broken(Runtimes):
        async def candidates(self) -> list[Candidate]:
            raise OSError("the disk broke")

    ranks = GroupRanks(spec(2), Broken())
    ranks.start(leader())
    error = await asyncio.wait_for(ranks.wait_lost(), 30)
    assert "OSError" in error.message
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
    error = await asyncio.wait_for(ranks.wait_lost(), 30)
    assert "other: nothing was heard of it for 0.01 s" in error.message
    await ranks.close()


async def test_a_single_process_waits_for_no_ranks() -> None:
    ranks = GroupRanks(spec(1), None)
    ranks.start(leader())
    await asyncio.wait_for(ranks.wait_placed(), 30)
    await ranks.close()
