"""What attempts used, until it is reported."""

from tests.fakes.new_jobs import USED, claim_one, completed, failed, new_job, owner, tell
from tests.integration.job_storage.conftest import Open, Stores


async def use(stores: Stores, *job_ids: str) -> None:
    session = await stores.session()
    for job_id in job_ids:
        await stores.jobs.submit([new_job(job_id)])
        await tell(
            stores.jobs, session, await claim_one(stores.jobs, session), completed(used=USED)
        )


async def test_nothing_is_reported_where_nothing_was_used(stores: Stores):
    await stores.jobs.submit([new_job("a")])
    session = await stores.session()
    await tell(stores.jobs, session, await claim_one(stores.jobs, session), completed())
    assert await stores.usage.unreported(9) is None


async def test_failed_attempts_use_something_too(stores: Stores):
    await stores.jobs.submit([new_job("a")])
    session = await stores.session()
    id_ = await claim_one(stores.jobs, session)
    assert await stores.usage.unreported(9) is None
    await tell(stores.jobs, session, id_, failed(used=USED))
    batch = await stores.usage.unreported(9)
    assert batch is not None
    [entry] = batch.entries
    assert (entry.failed, entry.owner, entry.used_ms) == (True, owner(), stores.clock())
    assert (entry.model, entry.model_version) == ("chat", 3)
    assert (entry.prompt_tokens, entry.completion_tokens) == (5, 7)


async def test_a_batch_stays_the_same_until_it_is_reported(stores: Stores, open_stores: Open):
    other = await open_stores()
    await use(stores, "a", "b", "c")
    first = await stores.usage.unreported(2)
    second = await other.usage.unreported(2)
    assert first is not None
    assert second is not None
    assert (len(first.entries), len(second.entries)) == (2, 1)
    assert await other.usage.unreported(2) is None
    await use(stores, "d")
    # The service that took it has died.
    stores.clock.advance(60)
    assert await other.usage.unreported(1) == first
    await other.usage.reported(first.batch_id)
    await other.usage.reported(first.batch_id)
    assert await other.usage.unreported(1) == second
    await other.usage.reported(second.batch_id)
    third = await other.usage.unreported(9)
    assert third is not None
    assert len(third.entries) == 1
    assert third.batch_id not in (first.batch_id, second.batch_id)


async def test_a_clock_that_was_set_back_does_not_hide_a_batch(stores: Stores):
    await use(stores, "a")
    batch = await stores.usage.unreported(9)
    stores.clock.advance(-3_600)
    assert await stores.usage.unreported(9) == batch
