"""One leader among the services of a database, whatever happens to it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.replicas.lease import Lease
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.integration.model.rollout_rig import RolloutRig

LEASE_S = 3.0


class Clocks:
    """The time of several processes; one that is suspended does not notice that it passes."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._sleeping: list[tuple[str, float, asyncio.Event]] = []
        self.suspended: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def clock(self) -> float:
        return self.now_s

    def sleep_of(self, process: str) -> Callable[[float], "asyncio.Future[None]"]:
        async def sleep(seconds: float) -> None:
            over = asyncio.Event()
            self._sleeping.append((process, self.now_s + seconds, over))
            await over.wait()

        return lambda seconds: asyncio.ensure_future(sleep(seconds))

    def run(self, process: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """What a process does until it sleeps, again and again."""
        self._tasks[process] = asyncio.create_task(work)
        return self._tasks[process]

    async def advance(self, seconds: float) -> None:
        """In small steps, after each of which every process that is awake runs until it sleeps."""
        await self._until_all_sleep()
        for _ in range(round(seconds / 0.25)):
            self.now_s += 0.25
            await self.wake()

    async def wake(self) -> None:
        for process, until_s, over in self._sleeping:
            if until_s <= self.now_s and process not in self.suspended:
                over.set()
        self._sleeping = [each for each in self._sleeping if not each[2].is_set()]
        await self._until_all_sleep()

    async def _until_all_sleep(self) -> None:
        def is_busy(process: str, task: asyncio.Task[None]) -> bool:
            return not task.done() and process not in (name for name, _, _ in self._sleeping)

        while any(is_busy(*each) for each in self._tasks.items()):
            await asyncio.sleep(0.002)


@pytest.fixture
async def stores(database: DatabaseUrl) -> AsyncGenerator[tuple[Store, Store]]:
    first, second = await Store.open(database), await Store.open(database)
    yield first, second
    await first.close()
    await second.close()


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def leases(stores: tuple[Store, Store], clocks: Clocks) -> tuple[Lease, Lease]:
    first, second = (
        Lease(
            store.transactions,
            name,
            lease_s=LEASE_S,
            clock=clocks.clock,
            sleep=clocks.sleep_of(name),
        )
        for name, store in zip(("first", "second"), stores, strict=True)
    )
    return first, second


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_of_two_leads_and_the_other_follows_a_release(leases: tuple[Lease, Lease]):
    first, second = leases
    assert await first.try_acquire()
    assert await first.try_acquire()
    assert not await second.try_acquire()
    assert (first.leads(), second.leads()) == (True, False)
    await first.release()
    assert await second.try_acquire()
    assert not await first.try_acquire()


async def test_two_that_begin_at_once_have_one_leader(leases: tuple[Lease, Lease]):
    assert sorted(await asyncio.gather(*(each.try_acquire() for each in leases))) == [False, True]


async def test_a_leader_that_beats_is_not_replaced(leases: tuple[Lease, Lease], clocks: Clocks):
    first, second = leases
    await first.acquire()
    keeping = clocks.run("first", first.keep())
    waiting = clocks.run("second", second.acquire())
    await clocks.advance(4 * LEASE_S)
    assert first.leads()
    assert not waiting.done()
    await _cancel(keeping, waiting)


async def test_a_leader_that_was_killed_is_replaced_after_its_lease(
    leases: tuple[Lease, Lease], clocks: Clocks
):
    first, second = leases
    await first.acquire()
    waiting = clocks.run("second", second.acquire())
    await clocks.advance(LEASE_S - 1)
    assert not waiting.done()
    await clocks.advance(2)
    assert waiting.done()
    assert second.leads()


async def test_a_leader_that_was_suspended_knows_that_it_no_longer_leads(
    leases: tuple[Lease, Lease], clocks: Clocks, stores: tuple[Store, Store]
):
    first, second = leases
    await first.acquire()
    keeping = clocks.run("first", first.keep())
    waiting = clocks.run("second", second.acquire())
    clocks.suspended.add("first")
    await clocks.advance(2 * LEASE_S)
    assert waiting.done()
    assert not first.leads()
    async with stores[0].transactions.write() as session:
        assert not await first.may_write(session)
        assert await second.may_write(session)
    clocks.suspended.clear()
    await clocks.wake()
    async with asyncio.timeout(30):
        await keeping
    assert not await first.try_acquire()


async def test_what_a_former_leader_writes_about_replicas_has_no_effect(
    leases: tuple[Lease, Lease], stores: tuple[Store, Store], clocks: Clocks
):
    first, second = leases
    rig = RolloutRig(stores[0])
    await rig.register()
    seen = await rig.version(1)
    await first.acquire()
    waiting = clocks.run("second", second.acquire())
    await clocks.advance(2 * LEASE_S)
    assert waiting.done()
    stale = seen.with_replicas((), None)
    assert not await stores[0].record(stale, may_write=first.may_write)
    assert (await rig.version(1)).replicas == seen.replicas
    assert await stores[1].record(stale, may_write=second.may_write)
    assert (await rig.version(1)).replicas == ()
