"""What one running attempt sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mlxmesh_shared.errors import OutputTooLarge
from mlxmesh_worker import convert
from mlxmesh_worker.outbox import Outbox
from mlxmesh_worker.work import AttemptKey, Stop

MAX_STATE_CHARACTERS = 65_536
PROGRESS_INTERVAL_S = 0.5
REPEAT_INTERVAL_S = 60.0
"""Far below the time without news after which a jobs service stops an attempt."""


class AttemptReports:
    """Satisfies Reports."""

    def __init__(
        self,
        key: AttemptKey,
        outbox: Outbox,
        *,
        progress_interval_s: float = PROGRESS_INTERVAL_S,
        repeat_interval_s: float = REPEAT_INTERVAL_S,
    ) -> None:
        """repeat_interval_s: after which progress that is reported again without a change is sent
        again.
        """
        self._key = key
        self._progress_interval_s = progress_interval_s
        self._repeat_interval_s = repeat_interval_s
        self._sent_s = 0.0
        self._outbox = outbox
        self._stop: Stop | None = None
        self._progress: Any = None
        self._sent_progress: Any = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stop(self) -> Stop | None:
        return self._stop

    def stopped(self, why: Stop) -> None:
        """The attempt is being cancelled; the first reason counts, but for FENCED."""
        if self._stop is None or why is Stop.FENCED:
            self._stop = why

    def close(self) -> None:
        """Sends the last progress, unless the attempt was stopped."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._send_progress()

    def progress(
        self,
        *,
        fraction: float = 0.0,
        done: int = 0,
        total: int = 0,
        unit: str = "",
        text: str = "",
    ) -> None:
        self._progress = convert.progress(
            fraction=fraction, done=done, total=total, unit=unit, text=text
        )
        if self._timer is None:
            loop = asyncio.get_running_loop()
            if loop.time() - self._sent_s >= self._repeat_interval_s:
                self._sent_progress = None
            self._send_progress()
            self._timer = loop.call_later(self._progress_interval_s, self._progress_due)

    async def outputs(self, first: int, messages: list[Any], position: Any) -> None:
        if self._stop is None:
            update = convert.outputs_update(self._key, first, messages, position)
            await self._outbox.put(self._key, update, update.ByteSize())

    async def remember(self, state_json: str) -> None:
        if self._stop is not None:
            raise asyncio.CancelledError
        if len(state_json) > MAX_STATE_CHARACTERS:
            raise OutputTooLarge(
                f"the state of the back end has more than {MAX_STATE_CHARACTERS:,} characters"
            )
        update = convert.state_update(self._key, state_json)
        await self._outbox.put_and_wait(self._key, update, update.ByteSize())

    def end(self, make: Callable[[AttemptKey], Any]) -> None:
        """Sends how the attempt ended, unless it is fenced."""
        self.close()
        if self._stop is not Stop.FENCED:
            update = make(self._key)
            self._outbox.put_now(self._key, update, update.ByteSize())

    def _progress_due(self) -> None:
        self._timer = None
        if self._progress != self._sent_progress:
            self._send_progress()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._progress_interval_s, self._progress_due)

    def _send_progress(self) -> None:
        if self._outbox.full:
            return  # a later one will do
        if self._stop is None and self._progress != self._sent_progress:
            self._sent_progress = self._progress
            self._sent_s = asyncio.get_running_loop().time()
            update = convert.progress_update(self._key, self._progress)
            self._outbox.put_now(self._key, update, update.ByteSize())
