"""Who gets which jobs, with a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from mlxmesh_jobs.domain.jobs import Capability, Claim, Kind, NewJob, Owner, QueueSettings
from mlxmesh_jobs.workers.dispatcher import Dispatcher, Taker
from mlxmesh_shared.errors import DatabaseBusy
from tests.fakes.clock import FakeClock
from tests.fakes.job_store import InMemoryJobStore
from tests.fakes.waiting import until

GENERATIONS = Capability(kinds=frozenset({Kind.GENERATION}))
EMBEDDINGS = Capability(kinds=frozenset({Kind.EMBEDDING}))


class CountingStore(InMemoryJobStore):
    """Counts claims, and fails some."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.claims = 0
        self.failing = 0

    async def claim(
        self, session: int, capability: Capability, limit: int
    ) -> tuple[Sequence[Claim], float | None]:
        self.claims += 1
        if self.failing:
            self.failing -= 1
            raise DatabaseBusy("as the test wants")
        return await super().claim(session, capability, limit)


class Slots:
    """A session with so many slots."""

    def __init__(self, key: int, slots: int, capability: Capability = GENERATIONS) -> None:
        self.key = key
        self.capability = capability
        self.closed = False
        self.got: list[str] = []
        self._slots = slots

    @property
    def free(self) -> int:
        return self._slots - len(self.got)

    @property
    def held(self) -> int:
        return len(self.got)

    def give(self, claims: Sequence[Claim]) -> None:
        self.got += [each.id.job_id for each in claims]


class Painter(Slots):
    """A session whose connector has fewer slots than it has itself."""

    def __init__(self, key: int, slots: int, of_connector: int) -> None:
        super().__init__(key, slots)
        self._of_connector = of_connector

    @property
    def capability(self) -> Capability:
        left = self._of_connector - len(self.got)
        connectors = frozenset({"paint_http"}) if left else frozenset[str]()
        limits = frozenset((each, left) for each in connectors)
        return Capability(connectors=connectors, limits=limits)

    @capability.setter
    def capability(self, _: Capability) -> None:
        pass


def painting(name: str) -> NewJob:
    return replace(job(name, Kind.CONNECTOR), connector="paint_http")


def job(name: str, kind: Kind = Kind.GENERATION) -> NewJob:
    return NewJob(
        job_id=name,
        kind=kind,
        queue=kind.name.lower(),
        owner=Owner(owner="#", principal="p", share="p"),
        request=b"",
        digest=name.encode(),
        summary="",
    )


@asynccontextmanager
async def dispatching(store: CountingStore, *takers: Taker) -> AsyncGenerator[Dispatcher]:
    dispatcher = Dispatcher(store, lambda: takers, min_interval_s=0.001)
    task = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_got(count: int, *takers: Slots) -> None:
    await until(lambda: sum(len(each.got) for each in takers) >= count)


async def session(store: CountingStore, name: str) -> int:
    return await store.open_session(name, "s")


async def test_jobs_go_to_whoever_has_free_slots_and_can_run_them() -> None:
    store = CountingStore()
    one = Slots(await session(store, "w1"), 2)
    other = Slots(await session(store, "w2"), 2, EMBEDDINGS)
    async with dispatching(store, one, other):
        await store.submit([job("g1"), job("e1", Kind.EMBEDDING), job("g2"), job("g3")])
        await until_got(3, one, other)
        await asyncio.sleep(0.02)
    assert sorted(one.got) == ["g1", "g2"]
    assert other.got == ["e1"]


async def test_a_freed_slot_is_filled_when_the_dispatcher_is_woken() -> None:
    store = CountingStore()
    one = Slots(await session(store, "w1"), 1)
    await store.submit([job("g1"), job("g2")])
    async with dispatching(store, one) as dispatcher:
        await until_got(1, one)
        one.got.clear()
        dispatcher.wake()
        await until_got(1, one)
    assert one.got == ["g2"]


async def test_it_sleeps_while_nothing_changes() -> None:
    store = CountingStore()
    one = Slots(await session(store, "w1"), 8)
    async with dispatching(store, one):
        await until(lambda: store.claims > 0)
        await asyncio.sleep(0.05)
        before = store.claims
        await asyncio.sleep(0.2)
    assert store.claims == before


async def test_nobody_with_equal_abilities_asks_again_for_nothing() -> None:
    store = CountingStore()
    takers = [Slots(await session(store, f"w{number}"), 4) for number in range(6)]
    async with dispatching(store, *takers):
        await until(lambda: store.claims >= 6)
        await asyncio.sleep(0.02)
    assert store.claims == 6  # at the same time, so that they can be one transaction


async def test_a_database_that_is_away_is_asked_again() -> None:
    store = CountingStore()
    store.failing = 1
    one = Slots(await session(store, "w1"), 1)
    await store.submit([job("g1")])
    async with dispatching(store, one):
        await until_got(1, one)


async def test_a_rate_that_allows_more_later_is_waited_for() -> None:
    store = CountingStore()
    one = Slots(await session(store, "w1"), 4)
    await store.set_queue("generation", QueueSettings(paused=True))
    await store.submit([job("g1")])
    async with dispatching(store, one):
        await asyncio.sleep(0.02)
        assert one.got == []
        await store.set_queue("generation", QueueSettings())
        await until_got(1, one)


async def test_what_was_claimed_for_a_stream_that_has_ended_waits_again() -> None:
    store = CountingStore()
    gone = Slots(await session(store, "w1"), 1)
    gone.closed = True
    await store.submit([job("g1")])
    async with dispatching(store, gone):
        async with asyncio.timeout(30):
            while not await store.attempts("g1"):
                await asyncio.sleep(0.001)
    assert gone.got == []
    assert await store.held(gone.key) == []


async def test_a_stopped_dispatcher_gives_nothing() -> None:
    store = CountingStore()
    one = Slots(await session(store, "w1"), 4)
    async with dispatching(store, one) as dispatcher:
        dispatcher.stop()
        await store.submit([job("g1")])
        await asyncio.sleep(0.03)
    assert one.got == []


async def test_a_session_gets_no_more_of_a_connector_than_its_slots() -> None:
    store = CountingStore()
    keys = [await store.open_session(f"w{number}", f"s{number}") for number in range(2)]
    await store.submit([painting(f"job-{number}") for number in range(10)])
    few, more = Painter(keys[0], 64, 1), Painter(keys[1], 64, 4)
    async with dispatching(store, few, more):
        await until_got(5, few, more)
        await asyncio.sleep(0.05)
    assert (len(few.got), len(more.got)) == (1, 4)
