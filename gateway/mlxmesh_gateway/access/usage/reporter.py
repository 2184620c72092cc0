"""Reports usage to the access service: at least sent once, recorded exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from mlxmesh_gateway.access.usage.convert import report
from mlxmesh_gateway.access.usage.folder import UsageFolder
from mlxmesh_gateway.access.usage.ledger import Batch, Ledger
from mlxmesh_shared.errors import InvalidArgument, MeshError

_log = logging.getLogger(__name__)

INTERVAL_S = 2.0
"""What a gateway that is killed has counted within this time is lost."""
ADOPT_INTERVAL_S = 30.0
MAX_RETRY_S = 10.0
MAX_BATCHES = 64
"""Undelivered ones; beyond that the oldest is dropped."""

Send = Callable[[bytes], Awaitable[object]]
"""Reports an encoded batch. Raises: MeshError."""


class UsageReporter:
    """Delivers what the ledger counts.

    A batch that was never sent grows with the ledger; one that may have been sent never changes, so
    that its repetition changes nothing.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: UsageFolder,
        send: Send,
        *,
        may_send: Callable[[], bool],
        interval_s: float = INTERVAL_S,
    ) -> None:
        """may_send: whether an access service is thought to be there."""
        self._ledger = ledger
        self._folder = folder
        self._send = send
        self._may_send = may_send
        self._interval_s = interval_s
        self._sealed: OrderedDict[str, bytes] = OrderedDict()
        self._open: Batch | None = None
        self._retry_s = 0.0
        self._next_send_s = 0.0
        self._next_adoption_s = 0.0
        self._busy = asyncio.Lock()
        self._closing = asyncio.Event()
        self.dropped = 0
        """Batches that were dropped because too many were undelivered, or were refused."""

    async def run(self) -> None:
        """Reports until `close`."""
        while not self._closing.is_set():
            try:
                async with self._busy:
                    await self._step()
            except Exception:  # noqa: BLE001 - reporting must not end
                _log.exception("usage could not be reported; trying again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._interval_s)

    async def close(self) -> None:
        """Puts everything on disk, and tries once more to deliver it, after what `run` is at."""
        self._closing.set()
        async with self._busy:
            try:
                await self._collect()
                if self._may_send():
                    await self._deliver()
            finally:
                await asyncio.to_thread(self._folder.close)

    async def _step(self) -> None:
        await self._collect()
        now_s = time.monotonic()
        if not self._may_send() or now_s < self._next_send_s:
            return
        if now_s >= self._next_adoption_s:
            self._next_adoption_s = now_s + ADOPT_INTERVAL_S
            self._sealed.update(await asyncio.to_thread(self._folder.adopt))
        await self._deliver()

    async def _collect(self) -> None:
        """Moves the ledger into batches, and those to disk."""
        records = self._ledger.take()
        while records:
            if self._open is None:
                self._open = Batch(secrets.token_hex(16))
            rest = self._open.add(records)
            await self._write(self._open.batch_id, report(self._open))
            if rest:
                self._seal()
            records = rest

    def _seal(self) -> None:
        if self._open is not None:
            self._sealed[self._open.batch_id] = report(self._open)
            self._open = None

    async def _deliver(self) -> None:
        if not self._sealed:
            self._seal()
        while self._sealed:
            batch_id, encoded = next(iter(self._sealed.items()))
            try:
                await self._send(encoded)
            except InvalidArgument as error:
                self.dropped += 1
                _log.error("a batch of usage was refused and is dropped: %s", error.message)
            except MeshError as error:
                self._delay(error)
                return
            self._retry_s = 0.0
            self._sealed.pop(batch_id, None)
            await asyncio.to_thread(self._folder.remove, batch_id)
            if not self._sealed:
                self._seal()

    def _delay(self, error: MeshError) -> None:
        """Tries again later, with bounded memory until then."""
        self._retry_s = min(MAX_RETRY_S, 2 * self._retry_s or self._interval_s)
        self._next_send_s = time.monotonic() + self._retry_s
        _log.info("usage is kept for later: %s", error.message)

    async def _write(self, batch_id: str, encoded: bytes) -> None:
        try:
            await asyncio.to_thread(self._folder.write, batch_id, encoded)
        except OSError as error:
            _log.error("usage could not be kept on disk: %s", error.strerror)
        while len(self._sealed) >= MAX_BATCHES:
            oldest, _ = self._sealed.popitem(last=False)
            self.dropped += 1
            _log.error("too much usage is undelivered: the oldest batch was dropped")
            await asyncio.to_thread(self._folder.remove, oldest)
