"""Callers take turns, and nobody waits behind all of another's work."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from mlxmesh_generation.text.worker_threads import FairThreadPool
from tests.fakes.waiting import until


class Work:
    """Pieces of work that run until they are let go."""

    def __init__(self, threads: int = 2) -> None:
        self.turns = FairThreadPool(threads)
        self.started: list[str] = []
        self._gates: dict[str, threading.Event] = {}

    def begin(self, name: str) -> "asyncio.Task[str]":
        """`name` begins with its caller, one letter."""
        self._gates[name] = threading.Event()
        return asyncio.create_task(self.turns.run(name[0], self._work, name))

    def finish(self, name: str) -> None:
        self._gates[name].set()

    def finish_all(self) -> None:
        for gate in self._gates.values():
            gate.set()

    def _work(self, name: str) -> str:
        self.started.append(name)
        self._gates[name].wait(30)
        return name


@pytest.fixture
def work() -> Iterator[Work]:
    subject = Work()
    yield subject
    subject.finish_all()
    subject.turns.close()


async def test_work_returns_or_raises(work: Work) -> None:
    task = work.begin("a1")
    work.finish("a1")
    assert await task == "a1"
    with pytest.raises(ZeroDivisionError):
        await work.turns.run("a", divmod, 1, 0)
    assert await work.turns.run("a", len, "xyz") == 3


async def test_no_caller_has_all_threads(work: Work) -> None:
    tasks = [work.begin(f"a{number}") for number in range(60)]
    await until(lambda: work.started != [])
    other = work.begin("b1")
    await until(lambda: "b1" in work.started)
    assert work.started == ["a0", "b1"]
    assert work.turns.waiting == 59
    work.finish_all()
    assert await other == "b1"
    assert len(await asyncio.gather(*tasks)) == 60


async def test_callers_take_turns(work: Work) -> None:
    names = ["a1", "a2", "a3", "b1", "b2", "c1", "c2"]
    tasks = {name: work.begin(name) for name in names}
    for done in range(7):
        await until(lambda done=done: len(work.started) == min(7, done + 2))
        work.finish(work.started[done])
        await tasks[work.started[done]]
    assert work.started == ["a1", "b1", "c1", "a2", "b2", "c2", "a3"]


async def test_what_nobody_waits_for_any_more_is_dropped(work: Work) -> None:
    first = work.begin("a1")
    await until(lambda: work.started == ["a1"])
    gone = [work.begin(f"a{number}") for number in range(2, 50)]
    last = work.begin("a50")
    await until(lambda: work.turns.waiting == 49)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    assert work.turns.waiting == 1
    work.finish_all()
    assert (await first, await last) == ("a1", "a50")
    assert work.started == ["a1", "a50"]


async def test_a_thread_is_free_only_once_its_work_has_returned(work: Work) -> None:
    left = work.begin("a1")
    await until(lambda: work.started == ["a1"])
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    after = work.begin("a2")
    await asyncio.sleep(0.05)
    assert work.started == ["a1"]
    work.finish_all()
    assert await after == "a2"


async def test_who_leaves_in_the_moment_of_its_turn_gives_it_on(work: Work) -> None:
    first = work.begin("a1")
    await until(lambda: work.started == ["a1"])
    leaving, following = work.begin("a2"), work.begin("a3")
    await until(lambda: work.turns.waiting == 2)
    work.finish("a1")
    await until(lambda: work.turns.waiting == 1)  # it is its turn, and it has not run yet
    leaving.cancel()
    work.finish_all()
    assert await following == "a3"
    await asyncio.gather(first, leaving, return_exceptions=True)
