"""Sends numbered batches: each until it is acknowledged, always with its number."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from mlxmesh_shared.errors import InvalidArgument, MeshError, NotFound

INTERVAL_S = 1.0
"""What a process that is killed has not sent within this time is lost."""
MAX_RETRY_S = 5.0
FLUSH_S = 2.0

_log = logging.getLogger("mlxmesh.generation")

BatchT = TypeVar("BatchT")


class BatchSender(Generic[BatchT]):
    """Sends what `take` returns, while `running` and after each `wake()`."""

    def __init__(
        self,
        take: Callable[[int], BatchT | None],
        send: Callable[[BatchT], Awaitable[None]],
        refused: Callable[[BatchT, MeshError], None],
        *,
        is_urgent: Callable[[], bool] = lambda: False,
        interval_s: float = INTERVAL_S,
        flush_s: float = FLUSH_S,
    ) -> None:
        """take: the next batch, with the number that it is given, from 1 on in this process; None
        when there is nothing to send.
        send: returns once the batch is recorded. Raises: MeshError; InvalidArgument and NotFound
        for a batch that never is, which `refused` is told of.
        is_urgent: whether it sends at once instead of collecting for interval_s.
        flush_s: how long the end of `running` may take to send what is left.
        """
        self.unsent: BatchT | None = None
        """The batch that is not acknowledged."""
        self._take = take
        self._send = send
        self._refused = refused
        self._is_urgent = is_urgent
        self._interval_s = interval_s
        self._flush_s = flush_s
        self._number = 0
        self._arrived = asyncio.Event()

    def wake(self) -> None:
        """There is something to send."""
        self._arrived.set()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Sends until the body ends, then tries for a moment to send what is left."""
        task = asyncio.create_task(self._run(), name="send-batches")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._flush()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._is_urgent():
                await asyncio.sleep(self._interval_s)
            await self._send_all(retry_s=self._interval_s)

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(self._flush_s):
                await self._send_all(retry_s=self._flush_s / 8)
        except TimeoutError:
            _log.warning("the model service was not told of all that ended here; the rest is lost")

    async def _send_all(self, *, retry_s: float) -> None:
        """Sends everything in batches, waiting longer after each failure."""
        delay_s = retry_s
        while (batch := self._next()) is not None:
            if await self._is_done(batch):
                self.unsent, delay_s = None, retry_s
            else:
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, MAX_RETRY_S)
        self._arrived.clear()

    def _next(self) -> BatchT | None:
        """The one that is not acknowledged, or else a new one."""
        if self.unsent is None:
            self.unsent = self._take(self._number + 1)
            self._number += self.unsent is not None
        return self.unsent

    async def _is_done(self, batch: BatchT) -> bool:
        try:
            await self._send(batch)
        except (InvalidArgument, NotFound) as error:
            self._refused(batch, error)
        except MeshError as error:
            _log.debug("a batch waits for the model service: %s", error.reason)
            return False
        except Exception:  # noqa: BLE001 - sending must not end
            _log.exception("a batch could not be sent; trying again")
            return False
        return True
