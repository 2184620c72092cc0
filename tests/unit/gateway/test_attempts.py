"""Which tries one call makes, and who pays for them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mlxmesh_gateway.forwarding.attempts import MAX_TRIES, Answered, Attempts
from mlxmesh_gateway.forwarding.endpoint import Endpoint
from mlxmesh_shared.errors import MeshError, NotFound, ServiceUnavailable
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.resilience.breaker import Breaker, BreakerState
from mlxmesh_shared.resilience.retries import MAX_TOKENS, RetryBudget
from tests.fakes.lost import lost

GONE = lost()
HEDGE_S = 0.01


class Script:
    """What each endpoint does with a try; every try is written down."""

    def __init__(self, *acts: Callable[[Answered], Any] | MeshError | str) -> None:
        channel: Any = object()
        self.endpoints = [
            Endpoint(Instance("generation", f"g-{n}", f"host:{n}", pid=1), channel, Breaker())
            for n in range(len(acts))
        ]
        self.acts = acts
        self.tries: list[int] = []
        self.cancelled: list[int] = []

    async def attempt(self, endpoint: Endpoint, answered: Answered) -> str:
        number = self.endpoints.index(endpoint)
        self.tries.append(number)
        act = self.acts[number]
        if isinstance(act, MeshError):
            raise act
        if isinstance(act, str):
            return act
        try:
            return await act(answered)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise

    def call(self, budget: RetryBudget | None = None) -> Attempts[str]:
        return Attempts(self.attempt, self.endpoints, budget or RetryBudget())


async def never(_answered: Answered) -> str:
    return await asyncio.Future()


async def test_one_that_is_gone_is_followed_by_the_next() -> None:
    script = Script(GONE, "b")
    assert await script.call().run() == "b"
    assert script.tries == [0, 1]
    assert script.endpoints[0].breaker.state is BreakerState.OPEN
    assert all(endpoint.outstanding == 0 for endpoint in script.endpoints)


async def test_an_answer_that_says_no_is_an_answer() -> None:
    script = Script(NotFound("no such model"), "b")
    with pytest.raises(NotFound):
        await script.call().run()
    assert script.tries == [0]
    assert script.endpoints[0].breaker.state is BreakerState.CLOSED


async def test_tries_are_bounded() -> None:
    script = Script(*[GONE] * (MAX_TRIES + 2))
    with pytest.raises(ServiceUnavailable):
        await script.call().run()
    assert script.tries == list(range(MAX_TRIES))


@pytest.mark.parametrize("hedge_after_s", [None, HEDGE_S])
async def test_a_spent_budget_ends_the_tries(hedge_after_s: float | None) -> None:
    budget = RetryBudget(now_s=lambda: 0.0)
    for _ in range(int(MAX_TOKENS)):
        assert budget.try_spend()
    script = Script(GONE, "b")
    with pytest.raises(ServiceUnavailable):
        await script.call(budget).run(hedge_after_s)
    assert script.tries == [0]


@pytest.mark.parametrize("hedge_after_s", [None, 60.0])
async def test_nothing_is_tried_again_after_the_first_message(hedge_after_s: float | None) -> None:
    async def breaks(answered: Answered) -> str:
        answered()
        raise GONE

    script = Script(breaks, "b")
    with pytest.raises(ServiceUnavailable):
        await script.call().run(hedge_after_s)
    assert script.tries == [0]


async def test_a_slow_first_try_gets_company_and_the_first_to_answer_wins() -> None:
    script = Script(never, "b", "c")
    assert await script.call().run(HEDGE_S) == "b"
    assert (script.tries, script.cancelled) == ([0, 1], [0])
    assert script.endpoints[0].breaker.state is BreakerState.CLOSED
    assert all(endpoint.outstanding == 0 for endpoint in script.endpoints)


async def test_a_stream_that_begins_ends_the_other_at_once() -> None:
    other_ended = asyncio.Event()

    async def streams(answered: Answered) -> str:
        answered()
        await other_ended.wait()
        return "b"

    async def waits(_answered: Answered) -> str:
        try:
            return await asyncio.Future()
        finally:
            other_ended.set()

    script = Script(waits, streams)
    assert await script.call().run(HEDGE_S) == "b"
    assert script.cancelled == [0]


async def test_a_quick_answer_needs_no_hedge() -> None:
    script = Script("a", "b")
    assert await script.call().run(60.0) == "a"
    assert script.tries == [0]


async def test_a_stream_that_has_begun_gets_no_hedge() -> None:
    hedge_s = 0.2  # so long that a pause of this process is not taken for one of the stream

    async def streams(answered: Answered) -> str:
        answered()
        await asyncio.sleep(2 * hedge_s)
        return "a"

    script = Script(streams, "b")
    assert await script.call().run(hedge_s) == "a"
    assert script.tries == [0]


async def test_a_hedge_that_says_no_leaves_the_first_its_time() -> None:
    refused = asyncio.Event()

    async def slow(_answered: Answered) -> str:
        await refused.wait()
        return "a"

    async def refuses(_answered: Answered) -> str:
        asyncio.get_running_loop().call_soon(refused.set)
        raise NotFound("not here")

    script = Script(slow, refuses)
    assert await script.call().run(HEDGE_S) == "a"


async def test_a_hedged_call_whose_first_try_is_lost_goes_on_elsewhere() -> None:
    script = Script(GONE, "b")
    assert await script.call().run(60.0) == "b"


async def test_with_one_instance_there_is_nothing_to_hedge_with() -> None:
    async def slow(_answered: Answered) -> str:
        await asyncio.sleep(4 * HEDGE_S)
        return "a"

    script = Script(slow)
    assert await script.call().run(HEDGE_S) == "a"


async def test_a_caller_that_leaves_cancels_both() -> None:
    script = Script(never, never)
    call = asyncio.create_task(script.call().run(HEDGE_S))
    while len(script.tries) < 2:
        await asyncio.sleep(HEDGE_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert sorted(script.cancelled) == [0, 1]
