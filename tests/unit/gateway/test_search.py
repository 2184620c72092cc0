"""The search for the instance that has a generation."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mlxmesh_gateway.forwarding.search import first_success
from mlxmesh_shared.errors import GenerationNotFound, MeshError, NotFound, ServiceUnavailable


class Asked:
    """Answers as scripted, and remembers who was asked."""

    def __init__(self, **answers: object) -> None:
        self._answers = answers
        self.names: list[str] = []
        self.cancelled: list[str] = []

    async def __call__(self, name: str) -> object:
        self.names.append(name)
        answer = self._answers[name]
        if answer is None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
        if isinstance(answer, MeshError):
            raise answer
        return answer


def search(asked: Callable[[str], Awaitable[object]], *others: str) -> Awaitable[object]:
    return first_success("first", others, asked, first_timeout_s=0.01)


NOT_FOUND = GenerationNotFound("unknown here")
AWAY = ServiceUnavailable("away")


async def test_nobody_else_is_asked_when_the_first_has_it() -> None:
    asked = Asked(first=1, b=2, c=3)
    assert await search(asked, "b", "c") == 1
    assert asked.names == ["first"]


@pytest.mark.parametrize("answer", [NOT_FOUND, AWAY])
async def test_all_others_are_asked_when_the_first_does_not_have_it(answer: MeshError) -> None:
    asked = Asked(first=answer, b=GenerationNotFound("nor here"), c=3)
    assert await search(asked, "b", "c") == 3
    assert asked.names == ["first", "b", "c"]


async def test_a_frozen_first_does_not_hold_up_the_others() -> None:
    asked = Asked(first=None, b=2)
    assert await search(asked, "b") == 2
    assert asked.cancelled == ["first"]


async def test_a_slow_first_may_still_answer() -> None:
    async def ask(name: str) -> str:
        if name == "first":
            await asyncio.sleep(0.03)
            return name
        raise GenerationNotFound("unknown here")

    assert await search(ask, "b") == "first"


@pytest.mark.parametrize(("first", "b"), [(NOT_FOUND, AWAY), (AWAY, NOT_FOUND)])
async def test_not_found_needs_everybody_to_say_so(first: MeshError, b: MeshError) -> None:
    with pytest.raises(ServiceUnavailable):
        await search(Asked(first=first, b=b), "b")


async def test_not_found_when_all_said_so() -> None:
    with pytest.raises(NotFound):
        await search(Asked(first=NOT_FOUND, b=NOT_FOUND), "b")


async def test_the_only_instance_may_take_its_time() -> None:
    async def ask(_: str) -> int:
        await asyncio.sleep(0.03)
        return 1

    assert await search(ask) == 1


async def test_a_caller_that_leaves_cancels_all() -> None:
    asked = Asked(first=None, b=None)
    task = asyncio.ensure_future(search(asked, "b"))
    while asked.names != ["first", "b"]:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sorted(asked.cancelled) == ["b", "first"]
