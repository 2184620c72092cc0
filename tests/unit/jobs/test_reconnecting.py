"""What a session goes on with when its worker opens another stream."""

from dataclasses import replace

from mlxmesh_jobs.domain.jobs import Kind
from mlxmesh_jobs.observer import JobObserver
from mlxmesh_jobs.telemetry import JobTelemetry
from mlxmesh_jobs.workers.attempts import STOP_GRACE_S
from mlxmesh_jobs.workers.leases import Leases
from mlxmesh_jobs.workers.messages import Hello
from mlxmesh_jobs.workers.workers import Workers
from tests.fakes.job_store import InMemoryJobStore
from tests.fakes.new_jobs import claim_one, new_job

HELLO = Hello(
    worker_id="w1",
    session="s",
    host="h",
    slots=4,
    kinds=frozenset({Kind.GENERATION}),
    connectors={},
    queues=frozenset(),
    running=frozenset(),
)


async def test_an_attempt_that_is_kept_is_stopped_when_it_takes_too_long():
    now_s = 0.0
    store = InMemoryJobStore()
    observer = JobObserver(
        lambda payload, correlation_id="": None,
        JobTelemetry(workers=lambda: 0, clock=lambda: 0),
        clock=lambda: now_s,
    )
    leases = Leases(lease_s=300, reconnect_s=60)
    workers = Workers(store, leases, observer, stall_timeout_s=9_000, clock=lambda: now_s)
    first, _ = await workers.connect(HELLO)
    await store.submit([new_job("a", attempt_timeout_s=60), new_job("b", attempt_timeout_s=0)])
    kept = {await claim_one(store, first.key) for _ in range(2)}

    second, _ = await workers.connect(replace(HELLO, running=frozenset(kept)))

    assert second.held == 2
    now_s = 60 + STOP_GRACE_S - 1
    assert second.attempts.overdue(now_s) == []
    now_s += 1
    second.stop_overdue()
    orders = await second.outbox.take()
    assert orders is not None
    assert [each.job_id for each in orders.cancellations] == ["a"]
    await workers.drain()
