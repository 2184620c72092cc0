"""One instance is asked first; the others only when it fails or is slow."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from mlxmesh_gateway.upstream.first_answer import first_answer
from mlxmesh_shared.errors import MeshError, NotFound, ServiceUnavailable

UNKNOWN = NotFound("no such generation")
LOST = ServiceUnavailable("lost")
HANGS = None


@dataclass
class FakeInstances:
    """Instances that answer with a text or an error, or hang."""

    answers: Sequence[str | MeshError | None]
    asked: list[int] = field(default_factory=list[int])
    cancelled: list[int] = field(default_factory=list[int])

    async def ask(self, number: Any) -> str:
        self.asked.append(number)
        answer = self.answers[number]
        if answer is HANGS:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(number)
                raise
        if isinstance(answer, MeshError):
            raise answer
        return str(answer)

    async def first(self, head_start_s: float = 3600.0) -> str:
        endpoints: Any = range(len(self.answers))
        async with asyncio.timeout(10):
            return await first_answer(endpoints, self.ask, head_start_s=head_start_s)


async def test_no_other_is_asked_when_the_first_answers() -> None:
    instances = FakeInstances(["a", "b", "c"])
    assert await instances.first() == "a"
    assert instances.asked == [0]


@pytest.mark.parametrize("error", [UNKNOWN, LOST])
async def test_the_others_are_asked_when_the_first_fails(error: MeshError) -> None:
    instances = FakeInstances([error, UNKNOWN, "c"])
    assert await instances.first() == "c"
    assert instances.asked == [0, 1, 2]


async def test_the_others_are_asked_when_the_first_hangs() -> None:
    instances = FakeInstances([HANGS, UNKNOWN, "c"])
    assert await instances.first(head_start_s=0.001) == "c"
    assert instances.cancelled == [0]


async def test_a_slow_first_instance_may_still_answer() -> None:
    release = asyncio.Event()

    async def ask(number: Any) -> str:
        if number == 0:
            await release.wait()
            return "first"
        release.set()
        raise UNKNOWN

    endpoints: Any = range(2)
    async with asyncio.timeout(10):
        assert await first_answer(endpoints, ask, head_start_s=0.001) == "first"


async def test_the_rest_is_cancelled_after_an_answer() -> None:
    instances = FakeInstances([UNKNOWN, HANGS, "c"])
    assert await instances.first() == "c"
    assert instances.cancelled == [1]


async def test_not_found_is_raised_only_when_all_say_so() -> None:
    instances = FakeInstances([UNKNOWN, UNKNOWN, UNKNOWN])
    with pytest.raises(NotFound):
        await instances.first()
    assert instances.asked == [0, 1, 2]
    for answers in ([UNKNOWN, LOST], [LOST, UNKNOWN]):
        with pytest.raises(ServiceUnavailable, match="lost"):
            await FakeInstances(answers).first()


async def test_a_cancelled_caller_cancels_the_question() -> None:
    instances = FakeInstances([HANGS, "b"])
    task = asyncio.create_task(instances.first())
    while not instances.asked:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (instances.asked, instances.cancelled) == ([0], [0])
