"""What is tried again, how often, and when to stop."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from grpc import aio

from mlxmesh_client.calls import MAX_RETRY_DELAY_S, Calls, is_retryable
from mlxmesh_shared.errors import (
    InsufficientMemory,
    InvalidArgument,
    MeshError,
    NoReplica,
    NotStarted,
    QueueFull,
    QuotaExceeded,
    ServiceUnavailable,
    TooManyRequests,
)


class ScriptedMethod:
    """A stub's method: raises or returns what its script says, call by call."""

    def __init__(self, *script: Any) -> None:
        self._script = list(script)
        self.timeouts_s: list[float | None] = []
        self.calls: list[ScriptedStream] = []

    async def unary(
        self, request: str, *, timeout: float | None = None, metadata: Any = None
    ) -> Any:
        self.timeouts_s.append(timeout)
        result = self._script.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    def stream(self, request: str, *, timeout: float | None = None, metadata: Any = None) -> Any:
        self.timeouts_s.append(timeout)
        self.calls.append(ScriptedStream(self._script.pop(0)))
        return self.calls[-1]


class ScriptedStream:
    def __init__(self, items: list[Any]) -> None:
        self._items = [*items]
        self.cancelled = False

    async def read(self) -> Any:
        item = self._items.pop(0) if self._items else aio.EOF
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self) -> None:
        self.cancelled = True


def unavailable() -> MeshError:
    return ServiceUnavailable("away", retry_delay_s=0.001)


async def test_a_safe_call_is_tried_until_it_succeeds() -> None:
    method = ScriptedMethod(unavailable(), unavailable(), "answer")

    assert await Calls(attempts=4).unary(method.unary, "?", None, safe=True) == "answer"
    assert method.timeouts_s == [None, None, None]


async def test_the_last_attempts_error_is_the_callers() -> None:
    method = ScriptedMethod(unavailable(), NoReplica("nobody"))

    with pytest.raises(NoReplica):
        await Calls(attempts=2).unary(method.unary, "?", None, safe=True)


async def test_an_unsafe_call_is_tried_once() -> None:
    method = ScriptedMethod(unavailable(), "answer")

    with pytest.raises(ServiceUnavailable):
        await Calls(attempts=4).unary(method.unary, "?", None, safe=False)


async def test_a_retry_that_would_pass_the_deadline_is_not_waited_for() -> None:
    method = ScriptedMethod(ServiceUnavailable("away", retry_delay_s=60), "answer")

    async with asyncio.timeout(30):
        with pytest.raises(ServiceUnavailable):
            await Calls(attempts=4).unary(method.unary, "?", 1.0, safe=True)


async def test_a_quota_of_the_day_is_not_waited_for() -> None:
    method = ScriptedMethod(QuotaExceeded("used up", retry_delay_s=73_000), "answer")

    async with asyncio.timeout(30):
        with pytest.raises(QuotaExceeded):
            await Calls(attempts=4).unary(method.unary, "?", None, safe=True)


async def test_attempts_share_the_deadline() -> None:
    method = ScriptedMethod(ServiceUnavailable("away", retry_delay_s=0.05), "answer")

    await Calls(attempts=2).unary(method.unary, "?", 30.0, safe=True)

    first_s, second_s = (timeout_s or 0.0 for timeout_s in method.timeouts_s)
    assert second_s <= first_s - 0.05


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (ServiceUnavailable("x"), True),
        (NoReplica("x"), True),
        (QueueFull("x", retry_delay_s=1), True),
        (TooManyRequests("x", retry_delay_s=1), True),
        (QuotaExceeded("x", retry_delay_s=MAX_RETRY_DELAY_S), True),
        (QuotaExceeded("x", retry_delay_s=MAX_RETRY_DELAY_S + 1), False),
        (ServiceUnavailable("x", retry_delay_s=MAX_RETRY_DELAY_S + 1), False),
        (NotStarted("x"), False),
        (QueueFull("x"), False),
        (InsufficientMemory("x"), False),
        (InvalidArgument("x", retry_delay_s=1), False),
        (ValueError("x"), False),
    ],
)
def test_only_what_time_can_fix_is_retryable(error: Exception, worth: bool) -> None:
    assert is_retryable(error) is worth


async def _collect(method: Callable[..., Any], *, safe: bool) -> list[Any]:
    calls = Calls(attempts=3)
    return [message async for message in calls.stream(method, "?", None, safe=safe)]


async def test_a_safe_stream_is_tried_again_until_its_first_message() -> None:
    method = ScriptedMethod([unavailable()], ["a", "b"])

    assert await _collect(method.stream, safe=True) == ["a", "b"]
    assert method.calls[0].cancelled


async def test_a_stream_that_has_begun_is_never_tried_again() -> None:
    method = ScriptedMethod(["a", unavailable()], ["a", "b"])

    with pytest.raises(ServiceUnavailable):
        await _collect(method.stream, safe=True)
    assert len(method.calls) == 1


async def test_an_unsafe_stream_is_tried_once() -> None:
    method = ScriptedMethod([unavailable()], ["a"])

    with pytest.raises(ServiceUnavailable):
        await _collect(method.stream, safe=False)


async def test_leaving_a_stream_early_cancels_its_call() -> None:
    method = ScriptedMethod(["a", "b"])
    stream = Calls(attempts=1).stream(method.stream, "?", None, safe=True)

    assert await anext(stream) == "a"
    await stream.aclose()

    assert method.calls[0].cancelled


async def test_an_empty_stream_is_empty() -> None:
    assert await _collect(ScriptedMethod([]).stream, safe=True) == []
