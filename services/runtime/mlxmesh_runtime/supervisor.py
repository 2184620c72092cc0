"""Keeps one engine running: starts it, restarts it with growing pauses, gives up, stops it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from mlxmesh_runtime.engine_record import EngineFailure, EngineRecord, EngineSpec, FailureReason
from mlxmesh_runtime.engine_run import EngineDown, EngineHost, EngineRun
from mlxmesh_runtime.lifecycle import EngineState, check_move

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RestartLimits:
    """How long to pause before a restart, and when to give up."""

    backoff_min_s: float
    backoff_max_s: float
    breaker_failures: int  # in a row, without a steady run between them
    failure_reset_s: float  # a run that served so long was steady


class Supervisor:
    """One engine's life; each new record is handed to `publish`."""

    def __init__(
        self,
        *,
        spec: EngineSpec,
        host: EngineHost,
        limits: RestartLimits,
        publish: Callable[[EngineRecord], None],
    ) -> None:
        self.record = EngineRecord(spec=spec, state=EngineState.STARTING)
        self._host = host
        self._limits = limits
        self._publish = publish
        self._run = EngineRun(spec, host)
        self._ready_at_s: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._halting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self._publish(self.record)
        self._task = asyncio.create_task(self._keep_running(), name=f"supervise {self._id}")

    async def stop(self, grace_s: float) -> None:
        """Drain, end and, after the grace, kill the engine; returns when it is gone.

        Safe to call again and at the same time: the shortest grace counts.
        """
        if self._halting is None:
            self._halting = asyncio.create_task(self._halt())
        await asyncio.shield(self._halting)
        await self._run.stop(grace_s)
        if self.record.state is not EngineState.STOPPED:
            self._become(EngineState.STOPPED, address="", pid=0)

    async def _halt(self) -> None:
        """Take the engine out of use and end its supervision, leaving its process as it is."""
        self._become(EngineState.DRAINING)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._go_on_after(self._run.withdraw())

    async def _keep_running(self) -> None:
        """Start the engine again each time it goes down, until its breaker opens.

        One that refuses its model would refuse it again, and is not started again.
        """
        try:
            while True:  # a steady run starts the count and the pauses afresh
                async for attempt in self._attempts():
                    with attempt:
                        await self._run_once()
        except EngineDown as down:
            self._become(EngineState.FAILED)
            why = "refused its model" if down.failure.permanent else "failed too often"
            _log.error("engine %s %s and stays down", self._id, why)

    def _attempts(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(_may_be_repeated),
            wait=wait_exponential(
                multiplier=self._limits.backoff_min_s, max=self._limits.backoff_max_s
            )
            + wait_random(max=self._limits.backoff_min_s),
            stop=stop_after_attempt(self._limits.breaker_failures),
            reraise=True,
        )

    async def _run_once(self) -> None:
        """Run the engine until it leaves or goes down.

        Raises: EngineDown, unless it had run steadily.
        """
        if self.record.state is not EngineState.STARTING:
            self._run = EngineRun(self.record.spec, self._host)
            self._become(EngineState.STARTING, restarts=self.record.restarts + 1)
        self._ready_at_s = None
        try:
            await self._run_until_drains()
            await self._let_go()
        except EngineDown as down:
            was_steady = self._is_steady()
            await self._note_down(down.failure)
            if not was_steady:
                raise

    def _is_steady(self) -> bool:
        if self._ready_at_s is None:
            return False
        return time.monotonic() - self._ready_at_s >= self._limits.failure_reset_s

    async def _run_until_drains(self) -> None:
        try:
            pid = await self._run.spawn()
            self._become(EngineState.STARTING, pid=pid, started_at=datetime.now(UTC))
            address = await self._run.until_ready()
            self._become(EngineState.READY, address=address)
            self._ready_at_s = time.monotonic()
            _log.info("engine %s is ready at %s", self._id, address)
            await self._run.until_drains()
        except EngineDown:
            raise
        except Exception as error:
            # Supervision must outlive whatever a registry or a probe throws at it.
            _log.exception("engine %s: supervision failed", self._id)
            what = f"its supervision failed with {type(error).__name__}; see the runtime's log"
            raise EngineDown(EngineFailure(FailureReason.START_FAILED, what)) from error

    async def _let_go(self) -> None:
        """See an engine off that was asked to leave by another; the next run takes its place."""
        _log.info("engine %s was asked to leave", self._id)
        self._become(EngineState.DRAINING)
        await self._go_on_after(self._run.withdraw())
        await self._go_on_after(self._run.stop(self._host.stop_grace_s))
        self._become(EngineState.DRAINING, address="", pid=0)

    async def _note_down(self, failure: EngineFailure) -> None:
        """Clear away what is left of the run, so that nobody finds a dead engine."""
        _log.warning("engine %s: %s", self._id, failure.message)
        await self._go_on_after(self._run.withdraw())
        await self._go_on_after(self._run.stop(grace_s=0))
        self._become(EngineState.BACKOFF, address="", pid=0, last_failure=failure)

    async def _go_on_after(self, clearing: Coroutine[Any, Any, None]) -> None:
        """Supervision must outlive what a registry or a full disk does to its clearing away."""
        try:
            await clearing
        except Exception:  # noqa: BLE001  # whatever it was
            _log.exception("engine %s: something of its run could not be cleared away", self._id)

    def _become(self, state: EngineState, **changes: Any) -> None:
        if state is not self.record.state:
            check_move(self.record.state, state)
        self.record = replace(self.record, state=state, **changes)
        self._publish(self.record)

    @property
    def _id(self) -> str:
        return self.record.spec.engine_id


def _may_be_repeated(error: BaseException) -> bool:
    return isinstance(error, EngineDown) and not error.failure.permanent
