"""Sends events to addresses outside the mesh: one POST each, at least once, with the event's id.

Each hook reads the gateway's log at its own pace, so a slow or dead one delays nobody; events that
the log evicts before a hook has read them count as dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from google.protobuf.json_format import MessageToJson
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from mlxmesh.telemetry.v1.events_pb2 import Event
from mlxmesh_shared.events import EventFilter, EventLog

TIMEOUT_S = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryLimits:
    """The attempts for one event: by default half a minute, two minutes without answers."""

    attempts: int = 8
    pause_min_s: float = 0.5
    pause_max_s: float = 30.0


class _NotTaken(Exception):
    """The receiver did not accept an event, and may accept it later."""


class Webhook:
    """One address, and the events that it receives."""

    def __init__(
        self, url: str, wanted: EventFilter, log: EventLog, *, limits: RetryLimits = RetryLimits()
    ) -> None:
        self._url = url
        self._wanted = wanted
        self._log = log
        self._limits = limits
        self.delivered = 0
        self.dropped = 0

    async def run(self) -> None:
        """Sends new events one after another, until cancelled."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async for batch in self._log.follow(self._log.newest):
                if batch.lost:
                    self._drop(batch.lost, "the address is too slow")
                for event in filter(self._wanted.passes, batch.events):
                    await self._tell(session, event)

    async def _tell(self, session: aiohttp.ClientSession, event: Event) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_NotTaken),
            wait=wait_random_exponential(
                multiplier=self._limits.pause_min_s, max=self._limits.pause_max_s
            ),
            stop=stop_after_attempt(self._limits.attempts),
            reraise=True,
        )
        try:
            status: int = await retrying(self._post, session, event)
        except _NotTaken as error:
            self._drop(1, str(error))
            return
        if status < 300:
            self.delivered += 1
        else:
            self._drop(1, f"it answered {status}")

    async def _post(self, session: aiohttp.ClientSession, event: Event) -> int:
        """The receiver's status. Raises: _NotTaken if a retry may succeed."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": event.event_id}
        body = MessageToJson(event, preserving_proto_field_name=True, indent=None)
        try:
            async with session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _NotTaken(type(error).__name__) from error
        if status >= 500 or status in (408, 425, 429):
            raise _NotTaken(f"it answered {status}")
        return status

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        # The path and query of an address may contain a secret.
        host = urlsplit(self._url).hostname
        _log.warning("%d events were not told to the webhook at %s: %s", count, host, why)


@asynccontextmanager
async def running_webhooks(
    settings: tuple[str, ...], log: EventLog, *, limits: RetryLimits = RetryLimits()
) -> AsyncGenerator[list[Webhook]]:
    """Runs webhooks while the body runs; a setting is a URL and event names, none for all."""
    hooks = [
        Webhook(url, EventFilter(tuple(names)), log, limits=limits)
        for url, *names in (text.split() for text in settings)
    ]
    tasks = [asyncio.create_task(hook.run(), name="webhook") for hook in hooks]
    try:
        yield hooks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
