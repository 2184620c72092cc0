"""What every job store guarantees: those in SQL, and the fake for other tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mlxmesh_jobs.domain.jobs import (
    BackEndState,
    JobFilter,
    Kind,
    News,
    Outputs,
    Progress,
    QueueSettings,
    Stopped,
    Update,
)
from mlxmesh_jobs.domain.ports import JobStore
from mlxmesh_jobs.domain.recovery import Fault, RetryPolicy
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_jobs.storage.schema import JOBS
from mlxmesh_jobs.storage.store import SqlJobStore
from mlxmesh_shared.errors import (
    IllegalState,
    InvalidArgument,
    JobExists,
    JobNotFound,
    QueueFull,
)
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.clock import FakeClock
from tests.fakes.databases import sqlite_with_tables
from tests.fakes.job_store import InMemoryJobStore
from tests.fakes.new_jobs import (
    ALL,
    BROKEN,
    USED,
    claim,
    claim_one,
    completed,
    failed,
    new_job,
    tell,
)
from tests.fakes.postgres import PostgresServer, postgres_server

LAST = 2**62


@dataclass
class Case:
    """A store, and the clock by which it lives."""

    store: JobStore
    clock: FakeClock
    session: int

    async def another_session(self, worker_id: str = "worker-2") -> int:
        return await self.store.open_session(worker_id, "s")


@pytest.fixture(scope="module")
def postgres() -> Generator[PostgresServer]:
    with postgres_server() as server:
        yield server


@asynccontextmanager
async def _in_sql(url: DatabaseUrl, clock: FakeClock) -> AsyncIterator[JobStore]:
    database = await JobsDatabase.open(url, clock)
    try:
        yield SqlJobStore(database)
    finally:
        await database.close()


@pytest.fixture(params=["fake", "sqlite", "postgresql"])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    clock = FakeClock()
    if request.param == "fake":
        store: JobStore = InMemoryJobStore(clock)
        yield Case(store, clock, await store.open_session("worker-1", "s"))
        return
    if request.param == "sqlite":
        url: DatabaseUrl = sqlite_with_tables(tmp_path / "jobs.db", JOBS)
    else:
        url = request.getfixturevalue("postgres").create_database(JOBS)
    async with _in_sql(url, clock) as store:
        yield Case(store, clock, await store.open_session("worker-1", "s"))


# Submitting.


async def test_a_job_waits_and_is_found(case: Case) -> None:
    [job] = await case.store.submit([new_job("a", labels={"team": "red"}, priority=3)])
    assert (job.state, job.attempt, job.priority, job.labels) == (
        State.WAITING,
        0,
        3,
        {"team": "red"},
    )
    assert job.created_ms == case.clock()
    assert await case.store.get("a") == job
    assert await case.store.request("a") == b"a"
    assert await case.store.result("a") == b""
    with pytest.raises(JobNotFound):
        await case.store.get("b")
    with pytest.raises(JobNotFound):
        await case.store.result("b")


async def test_a_repeated_submit_returns_the_job_as_it_is(case: Case) -> None:
    [first] = await case.store.submit([new_job("a")])
    await claim_one(case.store, case.session)
    [again, other] = await case.store.submit([new_job("a"), new_job("b")])
    assert (again.key, again.state, again.attempt) == (first.key, State.RUNNING, 1)
    assert other.state is State.WAITING


async def test_another_job_with_the_id_stores_nothing(case: Case) -> None:
    await case.store.submit([new_job("a")])
    for different in (new_job("a", digest=b"x"), new_job("a", principal="user:eve")):
        with pytest.raises(JobExists):
            await case.store.submit([new_job("b"), different])
    with pytest.raises(JobNotFound):
        await case.store.get("b")
    with pytest.raises(JobExists):
        await case.store.submit([new_job("c"), new_job("c", digest=b"x")])


async def test_a_queue_that_is_full_for_a_principal_stores_nothing_more_of_it(case: Case) -> None:
    await case.store.set_queue("generation", QueueSettings(max_waiting_per_principal=2))
    later = case.clock() + 1_000
    await case.store.submit([new_job("a", not_before_ms=later)])
    with pytest.raises(QueueFull) as caught:
        await case.store.submit([new_job("b"), new_job("c")])
    assert caught.value.retry_delay_s
    await case.store.submit([new_job("b"), new_job("x", principal="user:eve")])
    with pytest.raises(QueueFull):
        await case.store.submit([new_job("c")])
    await case.store.submit([new_job("b"), new_job("c", queue="other")])
    await claim(case.store, case.session, 9)
    await case.store.submit([new_job("d")])


# Claiming.


async def test_a_claim_begins_an_attempt(case: Case) -> None:
    await case.store.submit([new_job("a", attempt_timeout_s=60)])
    [claimed] = await claim(case.store, case.session, 5)
    assert (claimed.id.job_id, claimed.id.attempt, claimed.request) == ("a", 1, b"a")
    assert (claimed.timeout_ms, claimed.outputs, claimed.started) == (60_000, 0, b"")
    assert claimed.owner == new_job("a").owner
    job = await case.store.get("a")
    assert (job.state, job.worker_id, job.started_ms) == (
        State.RUNNING,
        "worker-1",
        case.clock(),
    )
    assert await case.store.held(case.session) == [claimed.id]
    assert [one.running for one in await case.store.sessions()] == [1]
    assert await claim(case.store, case.session, 5) == []


async def test_a_claim_takes_no_more_of_a_connector_than_it_may(case: Case) -> None:
    await case.store.submit(
        [
            *(new_job(f"{name}-{number}", kind=Kind.CONNECTOR, queue=name, connector=name)
              for name in ("paint_http", "draw_http") for number in range(3)),
            new_job("text"),
        ]
    )  # fmt: skip
    claims = await claim(
        case.store,
        case.session,
        10,
        kinds=frozenset({Kind.GENERATION}),
        connectors=frozenset({"paint_http", "draw_http"}),
        limits=frozenset({("paint_http", 2)}),
    )
    found = sorted((each.connector, each.id.job_id) for each in claims)
    assert found == [
        ("", "text"),
        *(("draw_http", f"draw_http-{number}") for number in range(3)),
        *(("paint_http", f"paint_http-{number}") for number in range(2)),
    ]


async def test_an_attempt_may_not_run_past_the_deadline(case: Case) -> None:
    deadline_ms = case.clock() + 30_000
    await case.store.submit(
        [
            new_job("a", attempt_timeout_s=60, deadline_ms=deadline_ms),
            new_job("b", attempt_timeout_s=0),
        ]
    )
    case.clock.advance(10)
    claims = await claim(case.store, case.session, 2)
    assert [one.timeout_ms for one in claims] == [20_000, 0]


async def test_higher_priorities_come_first_then_those_with_fewer_running_jobs(case: Case) -> None:
    await case.store.submit([new_job(f"a{number}") for number in range(4)])
    await case.store.submit([new_job(f"b{number}", principal="user:bob") for number in range(2)])
    await case.store.submit([new_job("urgent", principal="user:eve", priority=1)])
    claims = await claim(case.store, case.session, 4)
    assert claims[0].id.job_id == "urgent"
    assert sorted(one.id.job_id for one in claims[1:]) == ["a0", "a1", "b0"]
    assert [one.id.job_id for one in await claim(case.store, case.session)] == ["b1"]


async def test_lanes_take_turns(case: Case) -> None:
    principals = ["user:a", "user:b", "user:c"]
    jobs = [new_job(f"{one[-1]}{n}", principal=one) for n in range(3) for one in principals]
    await case.store.submit(jobs)
    order: list[str] = []
    for _ in range(9):
        id_ = await claim_one(case.store, case.session)
        order.append(id_.job_id)
        await tell(case.store, case.session, id_, completed())
    assert [sorted(order[start : start + 3]) for start in (0, 3, 6)] == [
        [f"{one}{n}" for one in "abc"] for n in range(3)
    ]


async def test_a_session_gets_what_it_takes(case: Case) -> None:
    connector = {"kind": Kind.CONNECTOR, "queue": "pictures", "connector": "comfyui_http"}
    await case.store.submit(
        [
            new_job("picture", **connector),
            new_job("text"),
            new_job("vector", kind=Kind.EMBEDDING, queue="embedding"),
        ]
    )
    store, session = case.store, case.session
    assert await claim(store, session, connectors=frozenset({"a1111_http"})) == []
    assert await claim(store, session, kinds=frozenset({Kind.BATCH, Kind.CONNECTOR})) == []
    of_queue = {"kinds": frozenset(Kind), "queues": frozenset({"embedding"})}
    assert [one.kind for one in await claim(store, session, 5, **of_queue)] == [Kind.EMBEDDING]
    found = await claim(store, session, 5, connectors=frozenset({"comfyui_http"}))
    assert [one.id.job_id for one in found] == ["picture"]


async def test_a_paused_queue_starts_nothing(case: Case) -> None:
    await case.store.set_queue("generation", QueueSettings(paused=True))
    await case.store.submit([new_job("a"), new_job("b", queue="other")])
    assert [one.id.job_id for one in await claim(case.store, case.session, 5)] == ["b"]
    await case.store.set_queue("generation", QueueSettings())
    assert [one.id.job_id for one in await claim(case.store, case.session, 5)] == ["a"]


@pytest.mark.parametrize(
    ("settings", "others_start"),
    [(QueueSettings(max_running=2), 0), (QueueSettings(max_running_per_principal=2), 1)],
)
async def test_limits_of_running_jobs_hold(
    case: Case, settings: QueueSettings, others_start: int
) -> None:
    await case.store.set_queue("generation", settings)
    await case.store.submit([new_job(f"a{number}", priority=number) for number in range(4)])
    claims = await claim(case.store, case.session, 5)
    assert [one.id.job_id for one in claims] == ["a3", "a2"]
    assert await claim(case.store, case.session, 5) == []
    await case.store.submit([new_job("b", principal="user:bob")])
    others = await claim(case.store, case.session, 5)
    assert len(others) == others_start
    await tell(case.store, case.session, claims[0].id, completed())
    assert [one.id.job_id for one in await claim(case.store, case.session, 5)] == ["a1"]


async def test_a_batch_takes_no_place_of_its_requests(case: Case) -> None:
    await case.store.set_queue("batch", QueueSettings(max_running=1))
    await case.store.submit([new_job(f"b{n}", kind=Kind.BATCH, queue="batch") for n in range(2)])
    assert len(await claim(case.store, case.session, 5)) == 2


async def test_a_rate_limits_starts_and_tells_when_the_next_one_is_due(case: Case) -> None:
    await case.store.set_queue("generation", QueueSettings(starts_per_second=2, burst=3))
    await case.store.submit([new_job(f"a{number}") for number in range(9)])
    claims, wait_s = await case.store.claim(case.session, ALL, 5)
    assert (len(claims), wait_s) == (3, pytest.approx(0.5))
    case.clock.advance(1)
    claims, wait_s = await case.store.claim(case.session, ALL, 1)
    assert (len(claims), wait_s) == (1, None)
    case.clock.advance(-3_600)
    assert len(await claim(case.store, case.session, 5)) == 1
    case.clock.advance(7_200)
    assert len(await claim(case.store, case.session, 5)) == 3


async def test_a_blocked_principal_starts_nothing_for_a_while(case: Case) -> None:
    await case.store.submit([new_job("a"), new_job("b", principal="user:bob")])
    await case.store.block_principal("user:ada", case.clock() + 1_000)
    assert [one.id.job_id for one in await claim(case.store, case.session, 5)] == ["b"]
    case.clock.advance(1)
    assert [one.id.job_id for one in await claim(case.store, case.session, 5)] == ["a"]


# News.


async def test_a_completed_job_has_its_result(case: Case) -> None:
    await case.store.submit([new_job("a", retention_s=60)])
    id_ = await claim_one(case.store, case.session)
    case.clock.advance(2)
    applied = await tell(case.store, case.session, id_, completed(b"42", cost=0.5, used=USED))
    [ended] = applied.ended
    assert (applied.fenced, ended.delay_ms, ended.recovery, ended.failure) == ([], None, "", None)
    job = await case.store.get("a")
    assert ended.job == job
    assert (job.state, job.cost, job.worker_id) == (State.COMPLETED, 0.5, "")
    assert job.ended_ms == case.clock()
    assert job.expires_ms == case.clock() + 60_000
    assert await case.store.result("a") == b"42"
    [attempt] = await case.store.attempts("a")
    assert (attempt.attempt, attempt.worker_id, attempt.failure) == (1, "worker-1", None)
    assert attempt.ended_ms - attempt.started_ms == 2_000


async def test_a_failed_job_keeps_the_response_that_it_failed_by_until_a_retry(
    case: Case,
) -> None:
    store, session = case.store, case.session
    await store.submit([new_job("a", retry=RetryPolicy(max_attempts=2))])
    news = failed(result=b"500")
    await tell(store, session, await claim_one(store, session), news)
    assert await store.result("a") == b""
    case.clock.advance(3_600)
    await store.promote()
    [ended] = (await tell(store, session, await claim_one(store, session), news)).ended
    assert ended.job.state is State.FAILED
    assert await store.result("a") == b"500"
    await store.retry("a")
    assert await store.result("a") == b""


async def test_a_batch_without_failed_requests_is_not_retried(case: Case) -> None:
    await case.store.submit([new_job("b", kind=Kind.BATCH)])
    await tell(case.store, case.session, await claim_one(case.store, case.session), completed())
    with pytest.raises(IllegalState, match="none to run again"):
        await case.store.retry("b")


async def test_progress_is_kept(case: Case) -> None:
    await case.store.submit([new_job("a")])
    id_ = await claim_one(case.store, case.session)
    before = await case.store.get("a")
    progress = Progress(fraction=0.5, done=1, total=2, unit="steps", text="half")
    await tell(case.store, case.session, id_, progress)
    job = await case.store.get("a")
    assert job.progress == progress
    assert job.sequence > before.sequence


async def test_messages_are_stored_once_and_in_order(case: Case) -> None:
    await case.store.submit([new_job("a")])
    id_ = await claim_one(case.store, case.session)
    store, session = case.store, case.session
    await tell(store, session, id_, Outputs(first=1, messages=[b"1", b"2"], position=b"p2"))
    await tell(store, session, id_, Outputs(first=1, messages=[b"x"], position=b"p1"))
    await tell(
        store,
        session,
        id_,
        Outputs(first=2, messages=[b"x", b"3"], position=b"p3"),
        Outputs(first=4, messages=[b"4"]),
        BackEndState('{"prompt_id": 7}'),
    )
    found = await store.outputs("a", after_sequence=0, limit=9)
    assert [data for _, data in found] == [b"1", b"2", b"3", b"4"]
    sequences = [sequence for sequence, _ in found]
    assert sequences == sorted(set(sequences))
    assert await store.outputs("a", after_sequence=sequences[1], limit=1) == [found[2]]
    assert (await store.get("a")).outputs == 4
    await tell(store, session, id_, Stopped())
    [claimed] = await claim(store, session)
    assert (claimed.id.attempt, claimed.outputs, claimed.started) == (2, 4, b"1")
    assert (claimed.position, claimed.back_end_state) == (b"p3", '{"prompt_id": 7}')


async def test_messages_that_are_not_the_next_ones_are_refused_with_the_rest(case: Case) -> None:
    await case.store.submit([new_job("a")])
    id_ = await claim_one(case.store, case.session)
    messages = Outputs(first=1, messages=[b"1"]), Outputs(first=3, messages=[b"3"])
    with pytest.raises(InvalidArgument, match="next"):
        await tell(case.store, case.session, id_, *messages)
    assert (await case.store.get("a")).outputs == 0


async def test_a_failed_attempt_is_followed_by_another_after_a_delay(case: Case) -> None:
    await case.store.submit([new_job("a", retry=RetryPolicy(max_attempts=2))])
    id_ = await claim_one(case.store, case.session)
    [ended] = (await tell(case.store, case.session, id_, failed())).ended
    assert (ended.job.state, ended.recovery, ended.failure) == (State.DELAYED, "retry", BROKEN)
    assert ended.delay_ms is not None
    assert 800 <= ended.delay_ms <= 1_200
    assert ended.job.ready_ms == case.clock() + ended.delay_ms
    assert await claim(case.store, case.session) == []
    assert await case.store.promote() == ended.delay_ms / 1_000
    case.clock.advance(2)
    assert await case.store.promote() is None
    id_ = await claim_one(case.store, case.session)
    [ended] = (await tell(case.store, case.session, id_, failed())).ended
    assert (ended.job.state, ended.delay_ms, ended.job.failure) == (State.FAILED, None, BROKEN)
    attempts = await case.store.attempts("a")
    assert [(one.attempt, one.recovery, one.failure) for one in attempts] == [
        (1, "retry", BROKEN),
        (2, "retry", BROKEN),
    ]


async def test_a_back_end_that_says_when_it_works_again_is_waited_for(case: Case) -> None:
    await case.store.submit([new_job("a")])
    id_ = await claim_one(case.store, case.session)
    news = replace(failed(), failure=replace(BROKEN, retry_delay_ms=60_000))
    [ended] = (await tell(case.store, case.session, id_, news)).ended
    assert ended.delay_ms == 60_000


async def test_what_is_stopped_waits_again_and_counts_nothing(case: Case) -> None:
    await case.store.submit([new_job("a")])
    id_ = await claim_one(case.store, case.session)
    [ended] = (await tell(case.store, case.session, id_, Stopped())).ended
    assert (ended.job.state, ended.delay_ms) == (State.WAITING, 0)
    assert ended.job.counts.failures == 0


# Fencing.


async def test_only_the_last_attempt_of_its_session_has_an_effect(case: Case) -> None:
    store, session = case.store, case.session
    other = await case.another_session()
    await store.submit([new_job("a"), new_job("b")])
    first = await claim_one(store, session)
    held = await claim_one(store, session)
    assert (await tell(store, other, first, completed())).fenced == [first]
    await tell(store, session, first, Stopped())
    second = await claim_one(store, other)
    assert second == replace(first, attempt=2)
    applied = await store.apply(
        session,
        [
            Update(id=first, news=completed(b"old")),
            Update(id=held, news=completed(b"held")),
            Update(id=replace(first, job_id="unknown"), news=completed()),
        ],
    )
    assert applied.fenced == [first, replace(first, job_id="unknown")]
    assert [one.job.job_id for one in applied.ended] == ["b"]
    assert (await store.get("a")).state is State.RUNNING
    await tell(store, other, second, completed(b"new"))
    assert (await tell(store, other, second, completed(b"late"))).fenced == [second]
    assert await store.result("a") == b"new"


async def test_an_ended_session_writes_nothing_any_more(case: Case) -> None:
    store, session = case.store, case.session
    await store.submit([new_job("a")])
    id_ = await claim_one(store, session)
    [ended] = await store.end_session(session, beat=None, fault=Fault.WORKER_LOST, failure=BROKEN)
    assert (ended.job.state, ended.recovery, ended.delay_ms) == (State.WAITING, "worker_lost", 0)
    assert ended.job.counts.losses == 1
    assert (await tell(store, session, id_, completed())).fenced == [id_]
    assert await claim(store, session) == []
    assert await store.beat([session]) == [session]
    assert await store.sessions() == []
    assert await store.held(session) == []
    with pytest.raises(IllegalState):
        await store.open_session("worker-1", "s")
    assert (
        await store.end_session(session, beat=None, fault=Fault.WORKER_LOST, failure=BROKEN) == []
    )


async def test_a_session_that_beat_again_is_not_ended(case: Case) -> None:
    [seen] = await case.store.sessions()
    assert await case.store.beat([case.session]) == []
    await case.store.end_session(
        case.session, beat=seen.beat, fault=Fault.WORKER_LOST, failure=BROKEN
    )
    [now] = await case.store.sessions()
    assert now.beat > seen.beat
    await case.store.end_session(
        case.session, beat=now.beat, fault=Fault.WORKER_LOST, failure=BROKEN
    )
    assert await case.store.sessions() == []


async def test_a_session_is_opened_again_and_described(case: Case) -> None:
    assert await case.store.open_session("worker-1", "s", b"facts") == case.session
    assert await case.another_session() != case.session
    await case.store.describe_session(case.session, b"more")
    facts = {one.worker_id: one.facts for one in await case.store.sessions()}
    assert facts == {"worker-1": b"more", "worker-2": b""}


async def test_a_job_that_loses_ten_workers_is_poisoned(case: Case) -> None:
    await case.store.submit([new_job("a")])
    for number in range(10):
        session = await case.store.open_session(f"worker-{number}", "doomed")
        await claim_one(case.store, session)
        last = await case.store.end_session(
            session, beat=None, fault=Fault.WORKER_LOST, failure=BROKEN
        )
        assert [one.recovery for one in last] == ["poisoned" if number == 9 else "worker_lost"]
    job = await case.store.get("a")
    assert job.state is State.FAILED
    assert job.failure is not None
    assert job.failure.reason == "POISONED"


async def test_a_stuck_attempt_is_ended_for_its_worker(case: Case) -> None:
    await case.store.submit([new_job("a"), new_job("b")])
    id_ = await claim_one(case.store, case.session)
    other = await claim_one(case.store, case.session)
    await tell(case.store, case.session, other, completed())
    stale = replace(id_, attempt=7)
    ended = await case.store.stop_attempts(
        [stale, other, id_, replace(id_, job_id="unknown")],
        fault=Fault.WORKER_STUCK,
        failure=BROKEN,
    )
    assert [(one.job.job_id, one.recovery) for one in ended] == [("a", "worker_stuck")]
    assert (await tell(case.store, case.session, id_, completed())).fenced == [id_]


# Owners.


async def test_a_waiting_job_is_cancelled_at_once(case: Case) -> None:
    await case.store.submit([new_job("a"), new_job("b", not_before_ms=case.clock() + 1)])
    for job_id in ("a", "b"):
        assert (await case.store.cancel(job_id)).state is State.CANCELLED
        assert (await case.store.cancel(job_id)).state is State.CANCELLED
    assert await claim(case.store, case.session) == []
    with pytest.raises(JobNotFound):
        await case.store.cancel("c")


@pytest.mark.parametrize(
    ("news", "state"),
    [
        (Stopped(), State.CANCELLED),
        (failed(), State.CANCELLED),
        (completed(), State.COMPLETED),
    ],
)
async def test_a_running_job_is_cancelled_by_its_worker(
    case: Case, news: News, state: State
) -> None:
    await case.store.submit([new_job("a")])
    id_ = await claim_one(case.store, case.session)
    assert (await case.store.cancel("a")).state is State.CANCELLING
    assert await case.store.cancelling() == [id_]
    assert await case.store.held(case.session) == [id_]
    [ended] = (await tell(case.store, case.session, id_, news)).ended
    assert (ended.job.state, ended.delay_ms) == (state, None)
    assert await case.store.cancelling() == []


async def test_a_cancelled_job_of_a_lost_worker_is_not_run_again(case: Case) -> None:
    await case.store.submit([new_job("a")])
    await claim_one(case.store, case.session)
    await case.store.cancel("a")
    [ended] = await case.store.end_session(
        case.session, beat=None, fault=Fault.WORKER_LOST, failure=BROKEN
    )
    assert (ended.job.state, ended.delay_ms) == (State.CANCELLED, None)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_retried_job_has_as_many_attempts_as_a_new_one(case: Case, cancelled: bool) -> None:
    store, session = case.store, case.session
    await store.submit([new_job("a", deadline_ms=case.clock() + 60_000)])
    id_ = await claim_one(store, session)
    if cancelled:
        await store.cancel("a")
    await tell(store, session, id_, failed(Fault.JOB))
    case.clock.advance(3_600)
    job = await store.retry("a")
    assert (job.state, job.counts.failures, job.failure) == (State.WAITING, 0, None)
    assert (job.ended_ms, job.expires_ms, job.deadline_ms) == (0, 0, 0)
    assert job == await store.get("a")
    again = await claim_one(store, session)
    assert again == replace(id_, attempt=2)
    with pytest.raises(IllegalState):
        await store.retry("a")
    await tell(store, session, again, completed())
    with pytest.raises(IllegalState):
        await store.retry("a")
    with pytest.raises(JobNotFound):
        await store.retry("b")
    assert len(await store.attempts("a")) == 2


# Time.


async def test_a_job_starts_not_before_its_time(case: Case) -> None:
    await case.store.submit([new_job("a", not_before_ms=case.clock() + 3_000)])
    job = await case.store.get("a")
    assert (job.state, job.ready_ms) == (State.DELAYED, case.clock() + 3_000)
    assert await case.store.promote() == 3
    case.clock.advance(2.9)
    assert await case.store.promote() == pytest.approx(0.1)
    case.clock.advance(0.1)
    assert await case.store.promote() is None
    assert (await case.store.get("a")).state is State.WAITING
    assert (await case.store.get("a")).ready_ms == 0


@pytest.mark.parametrize("jump_s", [-3_600, 3_600])
async def test_a_clock_that_jumps_delays_no_retry_for_longer(case: Case, jump_s: float) -> None:
    await case.store.submit([new_job("a")])
    id_ = await claim_one(case.store, case.session)
    await tell(case.store, case.session, id_, failed())
    case.clock.advance(jump_s)
    wait_s = await case.store.promote()
    assert wait_s is None or wait_s <= 1.2
    case.clock.advance(1.2)
    await case.store.promote()
    assert (await case.store.get("a")).state is State.WAITING


async def test_a_clock_that_was_set_back_keeps_the_time_that_an_owner_chose(case: Case) -> None:
    await case.store.submit([new_job("a", not_before_ms=case.clock() + 1_000)])
    case.clock.advance(-3_600)
    assert await case.store.promote() == 3_601


async def test_jobs_that_miss_their_deadline_fail(case: Case) -> None:
    store, clock = case.store, case.clock
    soon = clock() + 1_000
    await store.submit(
        [
            new_job("runs", deadline_ms=soon, priority=2),
            new_job("stops", deadline_ms=soon, priority=2),
            new_job("waits", deadline_ms=soon),
            new_job("delayed", deadline_ms=soon, not_before_ms=soon - 1),
            new_job("free"),
        ]
    )
    ids = [one.id for one in await claim(store, case.session, 2)]
    await store.cancel("stops")
    assert await store.expire() == []
    clock.advance(1)
    assert [one.id.job_id for one in await claim(store, case.session, 9)] == ["free"]
    ended = {one.job.job_id: one.job for one in await store.expire()}
    assert {id_: job.state for id_, job in ended.items()} == {
        "runs": State.FAILED,
        "stops": State.CANCELLED,
        "waits": State.FAILED,
        "delayed": State.FAILED,
    }
    assert ended["waits"].failure is not None
    assert ended["waits"].failure.reason == "DEADLINE_EXCEEDED"
    assert await store.expire() == []
    assert (await tell(store, case.session, ids[0], completed())).fenced == [ids[0]]


async def test_ended_jobs_are_removed_after_their_retention(case: Case) -> None:
    store, session = case.store, case.session
    await store.submit([new_job("a", retention_s=10, labels={"x": "y"}), new_job("b")])
    id_ = await claim_one(store, session)
    messages = Outputs(first=1, messages=[b"1"], position=b"p")
    await tell(store, session, id_, messages, failed(Fault.JOB))
    case.clock.advance(9)
    assert await store.prune() == 0
    case.clock.advance(1)
    assert await store.prune() == 1
    assert await store.prune() == 0
    with pytest.raises(JobNotFound):
        await store.get("a")
    assert await store.outputs("a", after_sequence=0, limit=9) == []
    assert (await store.get("b")).state is State.WAITING
    [queue] = await store.queues()
    assert (queue.failed, queue.waiting) == (0, 1)


# Lists.


async def test_jobs_are_listed_newest_first_by_pages(case: Case) -> None:
    await case.store.submit([new_job(f"a{number}") for number in range(5)])
    page = await case.store.list(JobFilter(), before_key=LAST, limit=3)
    assert [job.job_id for job in page] == ["a4", "a3", "a2"]
    page = await case.store.list(JobFilter(), before_key=page[-1].key, limit=3)
    assert [job.job_id for job in page] == ["a1", "a0"]


FILTERS: list[tuple[JobFilter, list[str]]] = [
    (JobFilter(principal="user:bob"), ["b"]),
    (JobFilter(states=frozenset({State.RUNNING})), ["b"]),
    (JobFilter(states=frozenset({State.WAITING, State.DELAYED})), ["d", "c", "a"]),
    (JobFilter(kinds=frozenset({Kind.EMBEDDING})), ["c"]),
    (JobFilter(kinds=frozenset()), []),
    (JobFilter(queue="embedding"), ["c"]),
    (JobFilter(labels={"x": "1"}), ["c", "a"]),
    (JobFilter(labels={"x": "1", "y": "2"}), ["c"]),
    (JobFilter(batch_id="nothing"), []),
]


@pytest.mark.parametrize(("wanted", "expected"), FILTERS)
async def test_lists_are_filtered(case: Case, wanted: JobFilter, expected: list[str]) -> None:
    await _jobs_to_list(case)
    found = await case.store.list(wanted, before_key=LAST, limit=9)
    assert [job.job_id for job in found] == expected


async def _jobs_to_list(case: Case) -> None:
    await case.store.submit(
        [
            new_job("a", labels={"x": "1"}),
            new_job("b", principal="user:bob", priority=1),
            new_job("c", kind=Kind.EMBEDDING, queue="embedding", labels={"x": "1", "y": "2"}),
            new_job("d", not_before_ms=case.clock() + 1, labels={"x": "2"}),
        ]
    )
    await claim_one(case.store, case.session)


async def test_lists_are_filtered_by_time(case: Case) -> None:
    await case.store.submit([new_job("a")])
    between = case.clock() + 500
    case.clock.advance(1)
    await case.store.submit([new_job("b")])
    for wanted, expected in (
        (JobFilter(created_after_ms=between), ["b"]),
        (JobFilter(created_before_ms=between), ["a"]),
    ):
        found = await case.store.list(wanted, before_key=LAST, limit=9)
        assert [job.job_id for job in found] == expected


# Queues.


async def test_queues_tell_what_is_in_them(case: Case) -> None:
    settings = QueueSettings(max_running=7, starts_per_second=1.5, burst=2)
    await case.store.set_queue("empty", settings)
    await case.store.submit([new_job("a", priority=2), new_job("b", priority=1)])
    first_ms = case.clock()
    case.clock.advance(5)
    await case.store.submit([new_job("c"), new_job("d", not_before_ms=case.clock() + 1)])
    id_ = await claim_one(case.store, case.session)
    empty, queue = await case.store.queues()
    assert (empty.name, empty.settings, empty.waiting) == ("empty", settings, 0)
    assert (queue.delayed, queue.waiting, queue.running, queue.failed) == (1, 2, 1, 0)
    assert queue.oldest_waiting_ms == first_ms
    await tell(case.store, case.session, id_, failed(Fault.JOB))
    await claim(case.store, case.session, 9)
    _, queue = await case.store.queues()
    assert (queue.delayed, queue.waiting, queue.running, queue.failed) == (1, 0, 2, 1)
    assert queue.oldest_waiting_ms == 0


# Changes.


DEEDS: dict[str, Callable[[Case], Awaitable[object]]] = {
    "submit": lambda case: case.store.submit([new_job("b")]),
    "claim": lambda case: claim(case.store, case.session),
    "cancel": lambda case: case.store.cancel("a"),
    "set_queue": lambda case: case.store.set_queue("generation", QueueSettings(paused=True)),
}


@pytest.mark.parametrize("deed", DEEDS)
async def test_subscribers_hear_of_changes(case: Case, deed: str) -> None:
    await case.store.submit([new_job("a")])
    with case.store.subscribe() as changed:
        await case.store.get("a")
        await case.store.beat([case.session])
        assert not changed.is_set()
        await DEEDS[deed](case)
        async with asyncio.timeout(30):
            await changed.wait()


# Changes.


async def test_changes_are_those_after_a_change_the_last_first(case: Case) -> None:
    await case.store.submit([new_job("a"), new_job("b", principal="user:eve")])
    before = (await case.store.changes(0, principal="", limit=10)).change
    await case.store.cancel("b")
    await case.store.submit([new_job("c")])
    found = await case.store.changes(before, principal="", limit=10)
    assert [job.job_id for job in found.jobs] == ["c", "b"]
    assert found.jobs[1].state is State.CANCELLED
    assert (found.change > before, found.more) == (True, False)
    nothing = await case.store.changes(found.change, principal="", limit=10)
    assert (list(nothing.jobs), nothing.change) == ([], found.change)


async def test_changes_of_one_principal_are_limited(case: Case) -> None:
    await case.store.submit([new_job("a"), new_job("b", principal="user:eve"), new_job("c")])
    own = await case.store.changes(0, principal="user:eve", limit=10)
    assert [job.job_id for job in own.jobs] == ["b"]
    some = await case.store.changes(0, principal="", limit=2)
    assert (len(some.jobs), some.more) == (2, True)


async def test_every_step_of_a_job_is_a_change(case: Case) -> None:
    await case.store.submit([new_job("a")])
    change = (await case.store.changes(0, principal="", limit=10)).change
    await claim_one(case.store, case.session)
    running = await case.store.changes(change, principal="", limit=10)
    assert [(job.job_id, job.state) for job in running.jobs] == [("a", State.RUNNING)]
