"""Whatever owners, workers, time and losses do: jobs in SQL become what those in memory do."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mlxmesh_jobs.domain.jobs import AttemptId, Ended, Job, JobFilter, News, Outputs, Stopped
from mlxmesh_jobs.domain.ports import Applied, JobStore
from mlxmesh_jobs.domain.recovery import Fault, RetryPolicy
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.sql.urls import SqliteFile
from tests.fakes.clock import FakeClock
from tests.fakes.job_store import InMemoryJobStore
from tests.fakes.new_jobs import ALL, BROKEN, completed, failed, new_job, tell
from tests.integration.job_storage.conftest import Stores

IDS = st.sampled_from([f"a{number}" for number in range(6)])
SESSIONS = st.integers(1, 4)
# Without a delay, which would vary by chance.
RETRY = RetryPolicy(max_attempts=2, initial_delay_ms=0)
NEWS: dict[str, News] = {
    "completed": completed(b"42", cost=1),
    "failed": failed(),
    "wrong": failed(Fault.JOB),
    "unavailable": failed(Fault.SERVICE_UNAVAILABLE),
    "stopped": Stopped(),
    "first messages": Outputs(first=1, messages=[b"1", b"2"], position=b"p"),
    "more messages": Outputs(first=2, messages=[b"2", b"3"]),
}


class StoreMachine(RuleBasedStateMachine):
    """Every call goes to both."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._directory = tempfile.TemporaryDirectory()
        self._clock = FakeClock()
        self._sql = self._run(self._open())
        self._fake = InMemoryJobStore(self._clock)
        self._open_sessions(1)

    def _run(self, coroutine: Any) -> Any:
        return self._runner.run(coroutine)

    async def _open(self) -> Stores:
        url = SqliteFile(Path(self._directory.name) / "jobs.db")
        return Stores.of(await JobsDatabase.open(url, self._clock), self._clock)

    def _both(self, call: Callable[[JobStore], Awaitable[object]]) -> None:
        found = [self._run(_outcome(call, store)) for store in (self._sql.jobs, self._fake)]
        assert found[0] == found[1]

    def _open_sessions(self, count: int) -> None:
        for number in range(count):
            self._both(lambda store, n=number: store.open_session(f"worker-{n}", "s"))

    @rule(id_=IDS, priority=st.integers(0, 1), wait_s=st.integers(0, 2), lasts_s=st.integers(0, 4))
    def submit(self, id_: str, priority: int, wait_s: int, lasts_s: int) -> None:
        now_ms = self._clock()
        job = new_job(
            id_,
            priority=priority,
            not_before_ms=now_ms + 1_000 * wait_s if wait_s else 0,
            deadline_ms=now_ms + 1_000 * lasts_s if lasts_s else 0,
            retry=RETRY,
            retention_s=3,
        )
        self._both(lambda store: store.submit([job]))

    @rule(count=st.integers(1, 4))
    def workers_connect(self, count: int) -> None:
        self._open_sessions(count)

    @rule(session=SESSIONS, limit=st.integers(1, 3))
    def claim(self, session: int, limit: int) -> None:
        self._both(lambda store: store.claim(session, ALL, limit))

    @rule(session=SESSIONS, id_=IDS, attempt=st.integers(1, 3), news=st.sampled_from(list(NEWS)))
    def worker_tells(self, session: int, id_: str, attempt: int, news: str) -> None:
        self._both(lambda store: tell(store, session, AttemptId(id_, attempt), NEWS[news]))

    @rule(session=SESSIONS, news=st.sampled_from(list(NEWS)))
    def worker_tells_of_what_it_holds(self, session: int, news: str) -> None:
        for id_ in self._run(self._fake.held(session))[:1]:
            self._both(lambda store, one=id_: tell(store, session, one, NEWS[news]))

    @rule(session=SESSIONS)
    def worker_is_lost(self, session: int) -> None:
        self._both(
            lambda store: store.end_session(
                session, beat=None, fault=Fault.WORKER_LOST, failure=BROKEN
            )
        )

    @rule(id_=IDS, attempt=st.integers(1, 3))
    def attempt_is_stuck(self, id_: str, attempt: int) -> None:
        ids = [AttemptId(id_, attempt)]
        self._both(lambda store: store.stop_attempts(ids, fault=Fault.WORKER_STUCK, failure=BROKEN))

    @rule(id_=IDS)
    def cancel(self, id_: str) -> None:
        self._both(lambda store: store.cancel(id_))

    @rule(id_=IDS)
    def retry(self, id_: str) -> None:
        self._both(lambda store: store.retry(id_))

    @rule(seconds=st.sampled_from([1, 2, -1]))
    def time_passes(self, seconds: int) -> None:
        self._clock.advance(seconds)
        self._both(lambda store: store.promote())
        self._both(lambda store: store.expire())
        self._both(lambda store: store.prune())

    @rule()
    def the_service_restarts(self) -> None:
        self._run(self._sql.database.close())
        self._sql = self._run(self._open())

    @invariant()
    def all_jobs_are_the_same(self) -> None:
        self._both(lambda store: store.list(JobFilter(), before_key=2**62, limit=9))
        self._both(lambda store: store.queues())
        self._both(lambda store: store.sessions())

    def teardown(self) -> None:
        try:
            self._check_the_rest()
        finally:
            self._run(self._sql.database.close())
            self._runner.close()
            self._directory.cleanup()

    def _check_the_rest(self) -> None:
        for number in range(6):
            self._both(lambda store, n=number: store.attempts(f"a{n}"))
            self._both(lambda store, n=number: store.outputs(f"a{n}", after_sequence=0, limit=9))
        self._run(self._sql.check_lanes())


async def _outcome(call: Callable[[JobStore], Awaitable[object]], store: JobStore) -> object:
    try:
        return _without_keys(await call(store))
    except MeshError as error:
        return type(error)


def _without_keys(result: Any) -> Any:
    """Keys that were removed are not used again by all stores."""
    match result:
        case Job():
            return replace(result, key=0)
        case Ended():
            return replace(result, job=replace(result.job, key=0))
        case Applied():
            return result.fenced, _without_keys(result.ended)
        case _ if isinstance(result, list | tuple):
            return [_without_keys(each) for each in cast(Sequence[Any], result)]
        case _:
            return result


# Shrinking a failure takes longer than a test may.
TestStores = pytest.mark.timeout(300)(StoreMachine.TestCase)
TestStores.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
