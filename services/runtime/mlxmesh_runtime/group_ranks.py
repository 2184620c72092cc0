"""The ranks above 0 of one engine's group: finds runtimes for them, and holds them by calls.

A rank lives for as long as the call that holds it. So nothing is left over when this runtime dies,
and nobody but this runtime has to know of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from mlxmesh_runtime.device import needed_bytes
from mlxmesh_runtime.engine_command import RankPlace
from mlxmesh_runtime.engine_record import EngineSpec, RankRecord
from mlxmesh_runtime.rank_placement import PPM, Candidate, Placement, Proposal
from mlxmesh_runtime.rank_state import RankState
from mlxmesh_shared.errors import EngineLost, MeshError, NoRuntime

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Runtimes(Protocol):
    """The runtimes of the mesh, this one included."""

    own_id: str

    async def candidates(self) -> Sequence[Candidate]:
        """Those that could be asked to run a rank."""
        ...

    def hold(self, runtime_id: str, spec: EngineSpec, place: RankPlace) -> AsyncIterator[RankState]:
        """Runs a rank for as long as the iteration lasts, with its files fetched before.

        Raises: MeshError when it has ended, or could not begin.
        """
        ...


class GroupRanks:
    """Call `start` once, `close` at any time; an engine without a group has no ranks."""

    def __init__(
        self, spec: EngineSpec, runtimes: Runtimes | None, *, silence_s: float = math.inf
    ) -> None:
        """silence_s: how long to wait for rank 0, and for each message of a runtime that starts
        a rank.
        """
        self._spec = spec
        self._silence_s = silence_s if silence_s < math.inf else None
        self._placed = asyncio.Event()
        self._runtimes = runtimes
        self._records: dict[int, RankRecord] = {}
        self._holding: list[asyncio.Task[None]] = []
        self._recruiting: asyncio.Task[None] | None = None
        self._lost: asyncio.Future[MeshError] = asyncio.get_running_loop().create_future()

    @property
    def records(self) -> tuple[RankRecord, ...]:
        """Those that run, by rank."""
        return tuple(self._records[rank] for rank in sorted(self._records))

    def start(self, leader: Coroutine[Any, Any, str]) -> None:
        """Recruits the ranks once it is known where rank 0 listens for them."""
        if self._spec.group_size == 1:
            leader.close()
            self._placed.set()
            return
        self._recruiting = asyncio.create_task(self._recruit(leader))

    async def wait_placed(self) -> None:
        """Returns once all ranks have a process; that does not end when the group is lost."""
        await self._placed.wait()

    async def wait_lost(self) -> MeshError:
        """Returns why the group cannot go on."""
        return await asyncio.shield(self._lost)

    async def close(self) -> None:
        """Ends the calls, and with them what is left of the ranks."""
        tasks = [*self._holding, *([self._recruiting] if self._recruiting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _recruit(self, leader: Coroutine[Any, Any, str]) -> None:
        try:
            address = await self._in_time(leader)
            if self._runtimes is None:
                raise NoRuntime("this runtime cannot run groups")
            placement = Placement(
                await self._runtimes.candidates(),
                own_id=self._runtimes.own_id,
                size=self._spec.group_size,
                needed_bytes=needed_bytes(self._spec),
                by_memory=self._spec.options.group_split == "pipeline",
            )
            for rank in range(1, self._spec.group_size):
                await self._place(rank, address, placement, self._runtimes)
            self._placed.set()
        except MeshError as error:
            self._lose(error)
        except Exception as error:  # noqa: BLE001 - logged
            # Nothing else ends a start whose ranks are not placed.
            _log.exception("engine %s: its ranks cannot be placed", self._spec.engine_id)
            message = f"placing its ranks failed with {type(error).__name__}; see the runtime's log"
            self._lose(EngineLost(message))

    async def _place(
        self, rank: int, leader: str, placement: Placement, runtimes: Runtimes
    ) -> None:
        """Raises: NoRuntime if no runtime runs the rank."""
        while proposal := placement.propose():
            runtime_id = proposal.candidate.runtime_id
            place = RankPlace(rank, leader, proposal.share_ppm)
            stream = runtimes.hold(runtime_id, self._spec, place)
            try:
                pid = await self._pid(stream)
            except MeshError as error:
                placement.refuse(proposal.candidate, error.message)
                continue
            placement.accept(proposal)
            _log.info("rank %d of %s runs on %s", rank, self._spec.engine_id, _where(proposal))
            record = RankRecord(rank, runtime_id, pid, proposal.candidate.round_trip_ms)
            self._records[rank] = record
            self._holding.append(asyncio.create_task(self._hold(record, stream)))
            return
        refusals = [f"{runtime_id}: {why}" for runtime_id, why in placement.refusals.items()]
        why = "; ".join(refusals) or "no runtime responds"
        raise NoRuntime(f"no runtime can run rank {rank} of the group: {why}")

    async def _pid(self, stream: AsyncIterator[RankState]) -> int:
        """That of the rank, once its runtime has the files. Raises: MeshError."""
        state = RankState()
        while not state.pid:
            state = await self._in_time(anext(stream))
        return state.pid

    async def _in_time(self, awaited: Awaitable[T]) -> T:
        """Raises: EngineLost if it takes too long."""
        try:
            async with asyncio.timeout(self._silence_s):
                return await awaited
        except TimeoutError:
            raise EngineLost(f"nothing was heard of it for {self._silence_s:g} s") from None

    async def _hold(self, record: RankRecord, stream: AsyncIterator[RankState]) -> None:
        try:
            async for _ in stream:
                pass
            self._lose(EngineLost(f"rank {record.rank} on {record.runtime_id} has ended"))
        except MeshError as error:
            message = f"rank {record.rank} on {record.runtime_id}: {error.message}"
            self._lose(EngineLost(message))
        finally:
            self._records.pop(record.rank, None)

    def _lose(self, error: MeshError) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):
            self._lost.set_result(error)


def _where(proposal: Proposal) -> str:
    """Where a rank runs, with the figures that its place was chosen by."""
    candidate = proposal.candidate
    memory = f"{candidate.available_bytes / 2**20:,.0f} MiB for ranks"
    share = f", {proposal.share_ppm / PPM:.1%} of the layers" if proposal.share_ppm else ""
    round_trip = f"round trip {candidate.round_trip_ms:.2f} ms"
    if not math.isfinite(candidate.round_trip_ms):
        round_trip = "round trip not measured"
    return f"{candidate.runtime_id} ({round_trip}, {memory}{share})"
