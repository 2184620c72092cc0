"""The search for the instance that has a generation."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mlxmesh_gateway.forwarding.search import every_success, first_success
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


def search(
    asked: Callable[[str], Awaitable[object]], *others: str, first_timeout_s: float = 0.01
) -> Awaitable[object]:
    return first_success("first", others, asked, first_timeout_s=first_timeout_s)


NOT_FOUND = GenerationNotFound("unknown here")
AWAY = ServiceUnavailable("away")


async def test_nobody_else_is_asked_when_the_first_has_it() -> None:
    asked = Asked(first=1, b=2, c=3)
    assert await search(asked, "b", "c", first_timeout_s=60) == 1
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


@pytest.mark.parametrize("order", [1, -1])
async def test_of_those_without_it_one_that_has_it_under_other_numbers_is_heard(order: int) -> None:
    renumbered = GenerationNotFound("renumbered", field="numbering")
    errors = [GenerationNotFound("unknown here", field="request_id"), renumbered][::order]
    with pytest.raises(NotFound) as caught:
        await search(Asked(first=errors[0], b=errors[1]), "b")
    assert caught.value is renumbered


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


# Asking all.


async def test_all_that_have_it_are_found_in_their_order() -> None:
    asked = Asked(a=2, b=NOT_FOUND, c=1, d=AWAY)
    assert await every_success("abcd", asked, 1) == [2, 1]


async def test_who_does_not_answer_is_waited_for_only_until_the_time_is_over() -> None:
    asked = Asked(a=None, b=1)
    assert await every_success("ab", asked, 0.01) == [1]
    assert asked.cancelled == ["a"]


async def test_the_first_success_may_take_its_time() -> None:
    async def ask(name: str) -> str:
        await asyncio.sleep(0.03 if name == "b" else 0)
        if name == "a":
            raise NOT_FOUND
        return name

    assert await every_success("ab", ask, 0.01) == ["b"]


@pytest.mark.parametrize("others", [{"b": AWAY}, {"a": AWAY, "b": NOT_FOUND}])
async def test_of_all_everybody_must_say_not_found(others: dict[str, MeshError]) -> None:
    with pytest.raises(ServiceUnavailable):
        await every_success("ab", Asked(**{"a": NOT_FOUND, **others}), 1)
    with pytest.raises(NotFound):
        await every_success("ab", Asked(a=NOT_FOUND, b=NOT_FOUND), 1)
