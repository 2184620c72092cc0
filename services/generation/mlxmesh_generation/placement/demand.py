"""Asks the model service to load the versions that requests wait for."""

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_shared.errors import (
    Cancelled,
    DeadlineExceeded,
    MeshError,
    NoRuntime,
    ServiceUnavailable,
)

_log = logging.getLogger(__name__)

REPEAT_S = 2.0
"""How often the model service is asked while requests wait: it may have lost the first call."""
RETRY_S = 0.25
"""After a call that did not reach it."""
RUNTIME_WAIT_S = 30.0
"""How long requests wait while there is no runtime at all; one may be restarting."""


@dataclass(frozen=True)
class VersionUse:
    """How long ago a sequence was last sent to a version; 0 while one runs."""

    name: str
    version: int
    idle_ms: int


class LoadSource(Protocol):
    """The model service."""

    async def request_load(self, name: str, version: int, uses: Sequence[VersionUse]) -> None:
        """`uses` says which loaded versions should stay.

        Raises: why the version is not and will not be loaded; ServiceUnavailable.
        """
        ...


class _Ask:
    """The calls for one version, and how many requests wait for it."""

    def __init__(self) -> None:
        self.waiters = 0
        self.failed: asyncio.Future[MeshError] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None


class Demand:
    """Many requests that wait for one version share one call."""

    def __init__(
        self,
        source: LoadSource,
        *,
        recent_uses: Callable[[], Sequence[VersionUse]] = tuple,
        repeat_s: float = REPEAT_S,
        retry_s: float = RETRY_S,
        runtime_wait_s: float = RUNTIME_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._recent_uses = recent_uses
        self._repeat_s = repeat_s
        self._retry_s = retry_s
        self._runtime_wait_s = runtime_wait_s
        self._clock = clock
        self._asks: dict[tuple[str, int], _Ask] = {}

    @contextmanager
    def asking(self, version: ModelVersion) -> Generator["asyncio.Future[MeshError]"]:
        """Asks for a version, again and again, until the context ends; the result of the future is
        why it will not be loaded.
        """
        key = version.name, version.version
        ask = self._asks.get(key)
        if ask is None:
            ask = self._asks[key] = _Ask()
            ask.task = asyncio.create_task(self._repeat(version, ask))
        ask.waiters += 1
        try:
            yield ask.failed
        finally:
            ask.waiters -= 1
            if not ask.waiters or ask.failed.done():
                self._end(key, ask)

    def _end(self, key: tuple[str, int], ask: _Ask) -> None:
        """Later requests ask anew."""
        if self._asks.get(key) is ask:
            del self._asks[key]
        if not ask.waiters and ask.task is not None:
            ask.task.cancel()

    async def _repeat(self, version: ModelVersion, ask: _Ask) -> None:
        no_runtime_since_s: float | None = None
        while True:
            pause_s = self._repeat_s
            try:
                uses = self._recent_uses()
                await self._source.request_load(version.name, version.version, uses)
                no_runtime_since_s = None
            except NoRuntime as error:
                now_s = self._clock()
                no_runtime_since_s = now_s if no_runtime_since_s is None else no_runtime_since_s
                if now_s - no_runtime_since_s >= self._runtime_wait_s:
                    ask.failed.set_result(error)
                    return
            except (ServiceUnavailable, DeadlineExceeded, Cancelled) as error:
                _log.debug("%s could not be asked for: %s", version, error.message)
                pause_s = self._retry_s
            except MeshError as error:
                ask.failed.set_result(error)
                return
            await asyncio.sleep(pause_s)
