"""The attempts that run here, as tasks."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from opentelemetry.trace import NoOpTracer, Status, StatusCode, Tracer

from mlxmesh_shared.errors import DeadlineExceeded, Internal, MeshError, OutputTooLarge
from mlxmesh_shared.telemetry import attributes
from mlxmesh_worker import convert
from mlxmesh_worker.outbox import Outbox
from mlxmesh_worker.reports import AttemptReports
from mlxmesh_worker.telemetry import ATTEMPT, KIND, WorkerTelemetry
from mlxmesh_worker.work import Assignment, AttemptFailed, AttemptKey, Fault, Kind, Runner, Stop

_log = logging.getLogger(__name__)

MAX_RESULT_BYTES = 12 * 2**20
"""A larger one would fit into no message, so that the stream broke each time it was sent."""


@dataclass
class _Running:
    assignment: Assignment
    reports: AttemptReports
    task: asyncio.Task[None] = field(init=False)
    timer: asyncio.TimerHandle | None = None


class Attempts:
    """Starts and stops attempts; how each ends goes to the outbox."""

    def __init__(
        self,
        *,
        slots: int,
        runners: Mapping[Kind, Runner],
        outbox: Outbox,
        telemetry: WorkerTelemetry | None = None,
        tracer: Tracer | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """on_change: called when an attempt has ended."""
        self._slots = slots
        self._runners = runners
        self._outbox = outbox
        self._telemetry = telemetry or WorkerTelemetry()
        self._telemetry.running = self._running_by_kind
        self._tracer = tracer or NoOpTracer()
        self.on_change = on_change
        self.is_lost: Callable[[], bool] = lambda: False
        """Whether the session may have been ended: then nothing ends work at a back end."""
        self._running: dict[AttemptKey, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    @property
    def held(self) -> frozenset[AttemptKey]:
        """The attempts that run, and those whose end is not confirmed."""
        return frozenset(self._running) | self._outbox.attempts

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._running)

    @property
    def free_slots(self) -> int:
        """How many more may begin."""
        return max(0, self._slots - len(self._running))

    def start(self, assignment: Assignment) -> None:
        """Runs an attempt; an earlier one of its job is dropped, a repeated call does nothing."""
        key = assignment.key
        if key in self._running:
            return
        self.drop([other for other in self._running if other.job_id == key.job_id])
        running = _Running(assignment, AttemptReports(key, self._outbox))
        self._running[key] = running
        running.task = asyncio.create_task(self._run(running), name=f"attempt-{key.job_id}")
        self._tasks.add(running.task)
        running.task.add_done_callback(partial(self._on_done, running))
        if assignment.timeout_s is not None:
            loop = asyncio.get_running_loop()
            expire = partial(self._stop, running, Stop.TIMEOUT)
            running.timer = loop.call_later(assignment.timeout_s, expire)

    def cancel(self, key: AttemptKey) -> None:
        """Stops an attempt because its job was cancelled; one that does not run has stopped."""
        running = self._running.get(key)
        if running is not None:
            self._stop(running, Stop.CANCELLED)
        elif key not in self._outbox.attempts:
            update = convert.stopped_update(key)
            self._outbox.put_now(key, update, update.ByteSize())

    def drop(self, keys: Iterable[AttemptKey]) -> None:
        """Forgets attempts: nothing more of them is sent, and their work is left to others."""
        keys = list(keys)
        for key in keys:
            running = self._running.pop(key, None)
            if running is not None:
                self._stop(running, Stop.FENCED)
        self._outbox.drop(keys)

    def drop_all(self) -> None:
        """As drop(), of all."""
        self.drop(self.held)

    async def leave(self, grace_s: float) -> None:
        """Returns once all have ended; those that take longer than grace_s are stopped."""
        try:
            async with asyncio.timeout(grace_s):
                await self._wait_ended()
        except TimeoutError:
            _log.info("%d attempts go on elsewhere", len(self._running))
            for running in list(self._running.values()):
                self._stop(running, Stop.LEAVING)
            await self._wait_ended()

    async def close(self) -> None:
        """Drops what still runs."""
        self.drop_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _wait_ended(self) -> None:
        while self._running:
            self._ended.clear()
            await self._ended.wait()

    def _stop(self, running: _Running, why: Stop) -> None:
        if why.ends_work and self.is_lost():
            why = Stop.FENCED
        if running.reports.stop is None:
            running.task.cancel()
        running.reports.stopped(why)

    def _on_done(self, running: _Running, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # A task that is cancelled before its first step runs nothing of it.
        if self._running.get(running.assignment.key) is running:
            if running.reports.stop is not None:
                self._end_stopped(running)
            self._forget(running)

    async def _run(self, running: _Running) -> None:
        key, kind = running.assignment.key, running.assignment.kind
        outcome = "completed"
        try:
            with self._span(running.assignment):
                result = await self._runners[kind].run(running.assignment, running.reports)
            if result.ByteSize() > MAX_RESULT_BYTES:
                raise OutputTooLarge(f"the result has more than {MAX_RESULT_BYTES:,} bytes")
            running.reports.end(partial(convert.result_update, result=result))
        except asyncio.CancelledError:
            outcome = self._end_stopped(running)
        except AttemptFailed as failed:
            outcome = self._end_failed(running, failed)
        except MeshError as error:
            outcome = self._end_failed(running, AttemptFailed(error))
        except Exception:  # noqa: BLE001 - an attempt must not end its worker
            _log.exception("attempt %d of job %s failed", key.attempt, key.job_id)
            error = Internal("the worker failed; its log says why")
            outcome = self._end_failed(running, AttemptFailed(error, fault=Fault.TRANSIENT))
        finally:
            self._forget(running)
            self._telemetry.ended(kind.name.lower(), outcome)

    @contextmanager
    def _span(self, assignment: Assignment) -> Generator[None]:
        """The span of an attempt: the root of the trace of all that it calls.

        It has no message of an error, which may name or quote what the job was given.
        """
        with self._tracer.start_as_current_span(
            f"run {assignment.kind.name.lower()}",
            attributes={
                attributes.REQUEST_ID: assignment.key.job_id,
                ATTEMPT: assignment.key.attempt,
                KIND: assignment.kind.name.lower(),
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception:
                span.set_status(Status(StatusCode.ERROR))
                raise

    def _end_stopped(self, running: _Running) -> str:
        stop = running.reports.stop
        if stop is None:
            raise asyncio.CancelledError  # this process ends
        if stop is Stop.TIMEOUT:
            limit_s = running.assignment.timeout_s or 0
            error = DeadlineExceeded(f"the attempt took longer than {limit_s:g} s")
            running.reports.end(
                partial(convert.failure_update, error=error, fault=Fault.TIMEOUT, used=None)
            )
        else:
            running.reports.end(convert.stopped_update)
        return stop.value

    def _end_failed(self, running: _Running, failed: AttemptFailed) -> str:
        key = running.assignment.key
        # Its message is for the owner only: it may name or quote what the job was given.
        reason = failed.error.reason
        _log.info("attempt %d of job %s failed: %s", key.attempt, key.job_id, reason)
        running.reports.end(
            partial(
                convert.failure_update,
                error=failed.error,
                fault=failed.fault,
                used=failed.used,
            )
        )
        return "failed"

    def _forget(self, running: _Running) -> None:
        if running.timer is not None:
            running.timer.cancel()
        if self._running.get(running.assignment.key) is running:
            del self._running[running.assignment.key]
        self._ended.set()
        self.on_change()

    def _running_by_kind(self) -> Mapping[str, int]:
        counts = Counter(one.assignment.kind.name.lower() for one in self._running.values())
        return {kind.name.lower(): counts[kind.name.lower()] for kind in self._runners}
