"""Heartbeats between all ranks of a group: outside the ring, whose exchanges can hang for ever."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Protocol

from mlxmesh_engine.groups.peer_watch import PeerWatch
from mlxmesh_shared.errors import EngineFailed, MeshError

BEAT_S = 0.2
_CHECK_S = 0.1
# A rank that has got its Stop may be gone before another one has read its own.
_STOP_GRACE_S = 0.3


class Switch(Protocol):
    """Ends the process unless it is reset in time."""

    def reset(self) -> None: ...
    def disarm(self) -> None: ...


class GroupPeers:
    """Calls `end` once when another rank is gone or silent, and never after `stop`.

    start_silence_s: what is too long until `protect` is called: loading may hold Python's lock for
    seconds, and meanwhile there is no sequence to protect. end: gets the reason, and ends the
    process without waiting for anything.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        *,
        start_silence_s: float,
        end: Callable[[MeshError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rank = rank
        self._end = end
        others = [other for other in range(size) if other != rank]
        self._start_silence_s = start_silence_s
        self._watch = PeerWatch(others, silence_s=start_silence_s, clock=clock)
        self._switch: Switch | None = None
        self._stopping = False

    def protect(self, silence_s: float, switch: Switch) -> None:
        """From now on silence_s is too long; call it when the group serves."""
        self._watch.limit(silence_s)
        self._switch = switch

    def stop(self) -> None:
        """From now on the others may go."""
        self._stopping = True
        if self._switch is not None:
            self._switch.disarm()

    def heard(self, rank: int) -> None:
        self._watch.heard(rank)

    def lost(self, rank: int) -> None:
        """Call it when a connection to a rank has ended."""
        loop = asyncio.get_running_loop()
        loop.call_later(_STOP_GRACE_S, self._end_unless_stopping, f"rank {rank} has ended")

    def fail(self, error: MeshError) -> None:
        """Ends the group for another reason."""
        if not self._stopping:
            self._end(error)

    async def check(self) -> None:
        """Looks for silent ranks until it is cancelled; until then, none can be heard."""
        self._watch.limit(self._start_silence_s)
        while True:
            self.look()
            await asyncio.sleep(_CHECK_S)

    def look(self) -> None:
        """Ends the group if a rank is silent for too long."""
        if self._switch is not None and not self._stopping:
            self._switch.reset()
        if (silence := self._watch.silent()) is not None:
            self._end_unless_stopping(f"rank {silence.rank} was silent for {silence.seconds:.1f} s")

    async def answer(self, beats: AsyncIterator[int]) -> AsyncGenerator[None]:
        """Serves the heartbeats of a rank above this one. beats: its rank, again and again."""
        if (rank := await anext(beats, None)) is None:
            return
        reader = asyncio.create_task(self._hear(rank, beats))
        try:
            while not reader.done():
                yield None
                await asyncio.wait({reader}, timeout=BEAT_S)
        finally:
            reader.cancel()
            self.lost(rank)

    async def follow(self, rank: int, answers: AsyncIterator[object]) -> None:
        """Reads the heartbeats of a rank below this one until its connection ends."""
        try:
            async for _ in answers:
                self._watch.heard(rank)
        except MeshError:
            pass  # it is lost, for whatever reason
        finally:
            self.lost(rank)

    async def own_beats(self) -> AsyncIterator[int]:
        """This rank, at intervals, for a rank below it."""
        while True:
            yield self._rank
            await asyncio.sleep(BEAT_S)

    async def _hear(self, rank: int, beats: AsyncIterator[int]) -> None:
        self._watch.heard(rank)
        async for _ in beats:
            self._watch.heard(rank)

    def _end_unless_stopping(self, reason: str) -> None:
        if not self._stopping:
            self._end(EngineFailed(f"the group ends: {reason}; it starts again when all ranks do"))
