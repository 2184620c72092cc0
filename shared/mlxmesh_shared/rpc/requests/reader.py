"""Reads incoming requests, a bounded number at once, since each occupies memory until it is whole.

A call that is not read occupies one window of 64 KiB; one that is read may occupy a whole message.
So only some are read at a time: no connection has more than half of the slots, waiting connections
get them in turn, and a message that does not arrive whole while others wait loses its slot.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Any

from grpc import aio

from mlxmesh_shared.errors import DeadlineExceeded, MalformedMessage, MeshError, TooManyRequests

_SWEEP_S = 0.25
_CROWDED_SWEEP_S = 0.05
_CROWDED = 64  # waiting connections


Context = aio.ServicerContext[Any, Any]


class RequestReader:
    """Reads the one message of each call of a server."""

    def __init__(
        self, *, max_reading: int = 32, max_waiting: int = 1024, timeout_s: float = 30.0
    ) -> None:
        self._max_reading = max_reading
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._max_per_peer = max(1, max_reading // 2)
        # For each task that reads: since when, and for which call; the oldest comes first.
        self._reading: dict[asyncio.Task[Any], tuple[float, Context]] = {}
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._waiting_count = 0
        self._ended: dict[asyncio.Task[Any], MeshError] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def read(self, context: Context) -> bytes:
        """The message. Raises: MalformedMessage, TooManyRequests, DeadlineExceeded."""
        task = asyncio.current_task()
        assert task is not None
        # While half of the slots are free, no peer can exceed its share: nothing to count.
        if len(self._reading) >= self._max_per_peer and not self._may_read(context.peer()):
            await self._wait(context.peer())
        loop = asyncio.get_running_loop()
        self._reading[task] = loop.time(), context
        if self._sweep is None:
            self._sweep = loop.call_later(_SWEEP_S, self._end_late)
        try:
            message: Any = await context.read()
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise self._ended.pop(task) from None
        finally:
            del self._reading[task]
            self._ended.pop(task, None)
            if self._waiting:
                self._admit()
        if message is aio.EOF:
            raise MalformedMessage("the call has no request; send one message")
        return message

    async def _wait(self, peer: str) -> None:
        if self._waiting_count >= self._max_waiting:
            self._refuse_one(peer)
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(peer, deque()).append(slot)
        self._waiting_count += 1
        try:
            await slot
        except asyncio.CancelledError:
            if not slot.cancelled():  # the slot was granted just now: grant it to the next one
                self._admit()
            raise
        finally:
            self._forget(peer, slot)

    def _forget(self, peer: str, slot: asyncio.Future[None]) -> None:
        mine = self._waiting.get(peer)
        if mine is not None and slot in mine:
            mine.remove(slot)
            self._waiting_count -= 1
            if not mine:
                del self._waiting[peer]

    def _may_read(self, peer: str) -> bool:
        if len(self._reading) >= self._max_reading:
            return False
        return sum(one.peer() == peer for _, one in self._reading.values()) < self._max_per_peer

    def _admit(self) -> None:
        """Grants a free slot to a waiting call, one connection after another."""
        for peer in self._waiting:
            if not self._may_read(peer):
                continue
            mine = self._waiting.pop(peer)
            slot = mine.popleft()
            self._waiting_count -= 1
            if mine:
                self._waiting[peer] = mine
            if not slot.done():
                slot.set_result(None)
            return

    def _refuse_one(self, peer: str) -> None:
        """Refuses the newest waiting call of the connection that has the most of them."""
        greediest = max(self._waiting, key=lambda each: len(self._waiting[each]))
        refusal = TooManyRequests(
            f"{self._max_waiting} requests are waiting to be read here; try again later",
            retry_delay_s=1.0,
        )
        if len(self._waiting[greediest]) <= len(self._waiting.get(peer, ())):
            raise refusal
        newest = self._waiting[greediest][-1]
        self._forget(greediest, newest)
        if not newest.done():
            newest.set_exception(refusal)

    def _end_late(self) -> None:
        loop = asyncio.get_running_loop()
        crowded = len(self._waiting) > _CROWDED
        late_s = loop.time() - (_CROWDED_SWEEP_S if crowded else _SWEEP_S)
        expired_s = loop.time() - self._timeout_s
        late = [
            task
            for index, (task, (since_s, _)) in enumerate(self._reading.items())
            if since_s <= expired_s or (since_s <= late_s and index < self._waiting_count)
        ]
        # Messages that arrived while the loop was busy are delivered before this runs.
        loop.call_soon(self._end, late)
        sweep_s = _CROWDED_SWEEP_S if crowded else _SWEEP_S
        busy = self._reading or self._waiting
        self._sweep = loop.call_later(sweep_s, self._end_late) if busy else None
        self._admit()

    def _end(self, late: list[asyncio.Task[Any]]) -> None:
        expired_s = asyncio.get_running_loop().time() - self._timeout_s
        for task in late:
            reading = self._reading.get(task)
            if reading is None or task in self._ended:
                continue
            expired = reading[0] <= expired_s
            self._ended[task] = _too_slow(self._timeout_s) if expired else _crowded()
            task.cancel()


def _too_slow(timeout_s: float) -> MeshError:
    return DeadlineExceeded(f"the request did not arrive completely within {timeout_s:g} s")


def _crowded() -> MeshError:
    return TooManyRequests(
        "the request did not arrive completely while others were waiting; try again later",
        retry_delay_s=1.0,
    )
