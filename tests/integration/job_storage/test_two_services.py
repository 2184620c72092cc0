"""Two jobs services on one database."""

from __future__ import annotations

import asyncio
from collections import Counter

from mlxmesh_jobs.domain.jobs import QueueSettings, Update
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.domain.states import State
from tests.fakes.new_jobs import ALL, BROKEN, claim, claim_one, completed, new_job, tell
from tests.integration.job_storage.conftest import Open, Stores

JOBS = 300
PATIENCE_S = 30


async def test_no_job_is_claimed_twice(stores: Stores, open_stores: Open):
    services = [stores, await open_stores()]
    claimed: Counter[str] = Counter()

    async def submit(service: Stores, first: int) -> None:
        for number in range(first, JOBS, 2):
            await service.jobs.submit([new_job(f"a{number}", principal=f"user:{number % 7}")])

    async def work(service: Stores, worker_id: str) -> None:
        session = await service.session(worker_id)
        while claimed.total() < JOBS:
            claims, _ = await service.jobs.claim(session, ALL, 7)
            claimed.update(one.id.job_id for one in claims)
            updates = [Update(id=one.id, news=completed()) for one in claims]
            applied = await service.jobs.apply(session, updates)
            assert applied.fenced == []

    async with asyncio.timeout(PATIENCE_S * 4), asyncio.TaskGroup() as tasks:
        for index, service in enumerate(services):
            tasks.create_task(submit(service, index))
            for number in range(3):
                tasks.create_task(work(service, f"worker-{index}-{number}"))
    assert set(claimed.values()) == {1}
    assert len(claimed) == JOBS
    for number in range(JOBS):
        assert (await stores.jobs.get(f"a{number}")).state is State.COMPLETED


async def test_one_of_two_services_ends_a_session(stores: Stores, open_stores: Open):
    other = await open_stores()
    session = await stores.session()
    await stores.jobs.submit([new_job("a")])
    id_ = await claim_one(stores.jobs, session)
    [seen] = await other.jobs.sessions()
    found = await asyncio.gather(
        *(
            one.jobs.end_session(session, beat=seen.beat, fault=Fault.WORKER_LOST, failure=BROKEN)
            for one in (stores, other)
        )
    )
    assert sorted(map(len, found)) == [0, 1]
    assert (await stores.jobs.get("a")).counts.losses == 1
    assert (await tell(stores.jobs, session, id_, completed())).fenced == [id_]


async def test_a_service_hears_of_the_changes_of_another(stores: Stores, open_stores: Open):
    other = await open_stores()
    polling = asyncio.create_task(stores.database.poll_changes(0.01))
    try:
        with stores.jobs.subscribe() as changed:
            async with asyncio.timeout(PATIENCE_S):
                while not changed.is_set():
                    await other.jobs.submit([new_job(f"a{await other.count('jobs')}")])
                    await asyncio.sleep(0.05)
    finally:
        polling.cancel()


async def test_concurrent_claims_of_one_service_respect_a_limit(stores: Stores):
    await stores.jobs.set_queue("generation", QueueSettings(max_running=5))
    await stores.jobs.submit([new_job(f"a{number}") for number in range(30)])
    sessions = [await stores.session(f"worker-{number}") for number in range(6)]
    found = await asyncio.gather(*(claim(stores.jobs, one, 4) for one in sessions))
    assert sum(map(len, found)) == 5
