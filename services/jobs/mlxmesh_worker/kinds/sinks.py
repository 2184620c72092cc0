"""Where the new messages of a generation go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from mlxmesh_worker.kinds.convert_stream import (
    Merged,
    Received,
    add_to_whole,
    new_whole,
    number,
)
from mlxmesh_worker.work import Reports

SEND_INTERVAL_S = 0.2
_MAX_TOKENS = 2048


class Sink(Protocol):
    """Gets the messages of a generation, each once."""

    async def add(self, message: Any) -> None:
        """Takes a message over."""
        ...


class WholeResponse:
    """Collects a CompleteResponse."""

    def __init__(self) -> None:
        self._merged = Merged()

    async def add(self, message: Any) -> None:
        self._merged.add(message)

    def response(self) -> Any:
        """The whole response; it is taken once."""
        whole = new_whole()
        for message in self._merged.take():
            add_to_whole(whole, message)
        return whole


class OutputStream:
    """Sends messages to the job's stream, merged, about every SEND_INTERVAL_S."""

    def __init__(self, reports: Reports, received: Received, *, stored: int) -> None:
        """stored: how many messages the job's stream has."""
        self._reports = reports
        self._received = received
        self._merged = Merged()
        self._lock = asyncio.Lock()
        self.messages = stored
        """How many messages the job's stream has, with those that were sent."""

    @contextlib.asynccontextmanager
    async def sending(self) -> AsyncGenerator[None]:
        """Sends in the background until the body ends, then the rest."""
        sending = asyncio.create_task(self._send_regularly())
        try:
            yield
        except Exception:
            await self._end(sending)  # the next attempt goes on after it
            raise
        except BaseException:
            sending.cancel()
            raise
        await self._end(sending)

    async def _end(self, sending: asyncio.Task[None]) -> None:
        async with self._lock:  # messages that are being sent are not lost
            sending.cancel()
        await self._send()

    async def add(self, message: Any) -> None:
        self._merged.add(message)
        while self._merged.tokens > _MAX_TOKENS:  # the jobs service is behind
            await self._send()

    async def _send_regularly(self) -> None:
        while True:
            await asyncio.sleep(SEND_INTERVAL_S)
            await self._send()

    async def _send(self) -> None:
        async with self._lock:
            messages = self._merged.take()
            if messages:
                first = self.messages + 1
                number(messages, first)
                self.messages += len(messages)
                await self._reports.outputs(first, messages, self._received.position())
