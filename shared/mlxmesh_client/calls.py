"""How calls are made: deadlines, and retries of what is safe to try again."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol, TypeVar, cast

from grpc import aio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.stop import stop_before_delay
from tenacity.wait import wait_random_exponential

from mlxmesh_client.tracing import Metadata, trace_metadata
from mlxmesh_shared.errors import MeshError, ServiceUnavailable

Request_contra = TypeVar("Request_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)
Request = TypeVar("Request")
Response = TypeVar("Response")
T = TypeVar("T")

_BACKOFF = wait_random_exponential(multiplier=0.1, max=2.0)


class UnaryMethod(Protocol[Request_contra, Response_co]):
    """A stub's method that answers once."""

    def __call__(
        self,
        request: Request_contra,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Awaitable[Response_co]: ...


class StreamMethod(Protocol[Request, Response]):
    """A stub's method that answers with a stream."""

    def __call__(
        self, request: Request, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> aio.UnaryStreamCall[Request, Response]: ...


class Calls:
    """Makes the calls of one client; `attempts` is how often a safe one is tried in all.

    Safe is what may be done twice: reads, and generations that gave nothing yet.
    """

    def __init__(self, *, attempts: int) -> None:
        self._attempts = attempts

    async def unary(
        self,
        method: UnaryMethod[Request, T],
        request: Request,
        timeout_s: float | None,
        *,
        safe: bool,
    ) -> T:
        """The answer; `timeout_s` bounds all attempts together."""

        async def attempt(left_s: float | None) -> T:
            return await method(request, timeout=left_s, metadata=trace_metadata())

        return await self._attempted(attempt, timeout_s, safe=safe)

    async def stream(
        self,
        method: StreamMethod[Request, Response],
        request: Request,
        timeout_s: float | None,
        *,
        safe: bool,
    ) -> AsyncGenerator[Response]:
        """The stream's messages; a safe stream is tried again until its first message.

        Leaving the iteration early cancels the call.
        """

        async def attempt(
            left_s: float | None,
        ) -> tuple[aio.UnaryStreamCall[Request, Response], Any]:
            call = method(request, timeout=left_s, metadata=trace_metadata())
            try:
                return call, await call.read()
            except BaseException:
                call.cancel()
                raise

        call, message = await self._attempted(attempt, timeout_s, safe=safe)
        try:
            while message is not aio.EOF:
                yield cast("Response", message)
                message = await call.read()
        finally:
            call.cancel()

    async def _attempted(
        self,
        attempt: Callable[[float | None], Awaitable[T]],
        timeout_s: float | None,
        *,
        safe: bool,
    ) -> T:
        end_s = None if timeout_s is None else time.monotonic() + timeout_s

        async def bounded() -> T:
            return await attempt(None if end_s is None else end_s - time.monotonic())

        attempts = stop_after_attempt(self._attempts if safe else 1)
        retrying = AsyncRetrying(
            stop=attempts if timeout_s is None else attempts | stop_before_delay(timeout_s),
            retry=retry_if_exception(is_worth_a_retry),
            wait=_wait_s,
            reraise=True,
        )
        return await retrying(bounded)


def is_worth_a_retry(error: BaseException) -> bool:
    """Whether the peer could not take the call just now, or said when it could."""
    return isinstance(error, ServiceUnavailable) or (
        isinstance(error, MeshError) and error.retryable and error.retry_delay_s is not None
    )


def _wait_s(state: RetryCallState) -> float:
    """What the mesh asks for, with jitter on top so that its callers do not come back at once."""
    assert state.outcome is not None
    error = state.outcome.exception()
    asked_s = error.retry_delay_s if isinstance(error, MeshError) else None
    return (asked_s or 0.0) + _BACKOFF(state)
