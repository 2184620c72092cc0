"""Keeps one engine running: restarts it with backoff, opens a circuit breaker, stops it.

Each start is an `EngineRun`. The breaker opens after too many failures in a row.
"""

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

from mlxmesh_runtime.engine_record import (
    EngineFailure,
    EngineLoad,
    EngineRecord,
    EngineSpec,
    FailureReason,
)
from mlxmesh_runtime.engine_run import EngineDown, EngineHost, EngineRun
from mlxmesh_runtime.files.file_fetch import Progress
from mlxmesh_runtime.lifecycle import EngineState, check_transition

_log = logging.getLogger(__name__)

DEREGISTER_WAIT_S = 0.5
"""A registry that is away holds up a restart for so long."""


@dataclass(frozen=True, kw_only=True)
class RestartLimits:
    """The backoff before a restart, and when the breaker opens."""

    backoff_min_s: float
    backoff_max_s: float
    breaker_failures: int  # in a row, without a stable run between them
    failure_reset_s: float  # a run that served this long was stable


class Supervisor:
    """Supervises one engine; calls `publish` with each new record."""

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
        self._deregistering: set[asyncio.Task[None]] = set()
        self._stopping: asyncio.Task[None] | None = None

    @property
    def load(self) -> EngineLoad:
        """As of the last heartbeat of the present run; that of an idle engine while it starts."""
        return self._run.load

    @property
    def fetch(self) -> Progress | None:
        """How far the fetch of the model's files is; None if none runs."""
        return self._host.files.progress(self.record.spec)

    def start(self) -> None:
        """Start the supervision in the background."""
        self._publish(self.record)
        self._task = asyncio.create_task(self._keep_running(), name=f"supervise {self._id}")

    async def stop(self, grace_s: float) -> None:
        """Drain the engine, kill it after the grace, return once it ended.

        Safe to call again and concurrently: the shortest grace counts.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._end_supervision())
        await asyncio.shield(self._stopping)
        await self._run.stop(grace_s)
        if self.record.state is not EngineState.STOPPED:
            self._transition(EngineState.STOPPED, address="", pid=0, ranks=())

    async def _end_supervision(self) -> None:
        """Deregister the engine and end its supervision; its process keeps running."""
        self._transition(EngineState.DRAINING)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._deregistered()
        await self._log_errors(self._run.deregister())

    async def _keep_running(self) -> None:
        """Restart the engine each time it goes down, until the breaker opens.

        An engine that refused its model would refuse it again and is not restarted.
        """
        try:
            while True:  # a stable run resets the backoff
                async for attempt in self._attempts():
                    with attempt:
                        await self._run_once()
        except EngineDown as down:
            await self._deregistered()  # a new start of this engine has its id there
            self._transition(EngineState.FAILED)
            cause = "cannot run its model" if down.failure.permanent else "failed too often"
            _log.error("engine %s %s and is not restarted", self._id, cause)

    def _attempts(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(_may_retry),
            wait=wait_exponential(
                multiplier=self._limits.backoff_min_s, max=self._limits.backoff_max_s
            )
            + wait_random(max=self._limits.backoff_min_s),
            stop=stop_after_attempt(self._limits.breaker_failures),
            reraise=True,
        )

    async def _run_once(self) -> None:
        """Run the engine until it drains or goes down.

        Raises: EngineDown, unless the run was stable.
        """
        if self.record.state is not EngineState.STARTING:
            self._run = EngineRun(self.record.spec, self._host)
            self._transition(EngineState.STARTING, restarts=self.record.restarts + 1)
        self._ready_at_s = None
        try:
            await self._run_until_drain()
            await self._replace_drained()
        except EngineDown as down:
            was_stable = self._is_stable()
            await self._record_failure(down.failure)
            if not was_stable:
                raise

    def _is_stable(self) -> bool:
        if self._ready_at_s is None:
            return False
        return time.monotonic() - self._ready_at_s >= self._limits.failure_reset_s

    async def _run_until_drain(self) -> None:
        try:
            await self._run.locate_files()
            pid = await self._run.spawn()
            self._transition(EngineState.STARTING, pid=pid, started_at=datetime.now(UTC))
            await self._deregistered()  # all runs have the same id there
            address = await self._run.wait_until_ready()
            self._transition(EngineState.READY, address=address, ranks=self._run.ranks)
            self._ready_at_s = time.monotonic()
            _log.info("engine %s is ready at %s", self._id, address)
            await self._run.wait_for_drain()
        except EngineDown:
            raise
        except Exception as error:
            # No error of a registry or a probe may end the supervision.
            _log.exception("engine %s: supervision failed", self._id)
            message = f"its supervision failed with {type(error).__name__}; see the runtime's log"
            raise EngineDown(EngineFailure(FailureReason.START_FAILED, message)) from error

    async def _replace_drained(self) -> None:
        """End the run of an engine that another process asked to drain; the next run follows."""
        _log.info("engine %s drains: another process asked it to", self._id)
        self._transition(EngineState.DRAINING)
        await self._log_errors(self._run.deregister())
        await self._log_errors(self._run.stop(self._host.stop_grace_s))
        self._transition(EngineState.DRAINING, address="", pid=0, ranks=())

    async def _record_failure(self, failure: EngineFailure) -> None:
        """Deregister and end what is left of the run, then record its failure."""
        _log.warning("engine %s: %s", self._id, failure.message)
        deregister = self._log_errors(self._run.deregister())
        task = asyncio.create_task(deregister, name=f"deregister {self._id}")
        self._deregistering.add(task)
        task.add_done_callback(self._deregistering.discard)
        await self._deregistered(DEREGISTER_WAIT_S)
        await self._log_errors(self._run.stop(grace_s=0))
        self._transition(EngineState.BACKOFF, address="", pid=0, ranks=(), last_failure=failure)

    async def _deregistered(self, timeout_s: float | None = None) -> None:
        """Wait until the runs that failed are deregistered, but not longer than the timeout."""
        if self._deregistering:
            await asyncio.wait(self._deregistering, timeout=timeout_s)

    async def _log_errors(self, cleanup: Coroutine[Any, Any, None]) -> None:
        """Log the errors of a cleanup: no registry and no full disk may end the supervision."""
        try:
            await cleanup
        except Exception:  # noqa: BLE001 - logged
            _log.exception("engine %s: a step of its cleanup failed", self._id)

    def _transition(self, state: EngineState, **changes: Any) -> None:
        if state is not self.record.state:
            check_transition(self.record.state, state)
        self.record = replace(self.record, state=state, **changes)
        self._publish(self.record)

    @property
    def _id(self) -> str:
        return self.record.spec.engine_id


def _may_retry(error: BaseException) -> bool:
    return isinstance(error, EngineDown) and not error.failure.permanent
