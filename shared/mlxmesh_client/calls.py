"""How the client makes calls: credentials, deadlines, retries of safe calls, trace propagation."""

import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol, TypeVar, cast

from grpc import aio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.stop import stop_before_delay
from tenacity.wait import wait_random_exponential

from mlxmesh_client.credentials import ApiKey, bearer, check_key
from mlxmesh_shared.errors import MeshError, NotStarted, ServiceUnavailable

Request_contra = TypeVar("Request_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)
Request = TypeVar("Request")
Response = TypeVar("Response")
T = TypeVar("T")
Metadata = tuple[tuple[str, str], ...]

MAX_RETRY_DELAY_S = 30.0
"""A longer delay, such as that of a daily quota, is left to the caller: the error is raised."""
_BACKOFF = wait_random_exponential(multiplier=0.1, max=2.0)


class UnaryMethod(Protocol[Request_contra, Response_co]):
    """A unary method of a stub."""

    def __call__(
        self,
        request: Request_contra,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Awaitable[Response_co]: ...


class StreamMethod(Protocol[Request, Response]):
    """A server-streaming method of a stub."""

    def __call__(
        self, request: Request, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> aio.UnaryStreamCall[Request, Response]: ...


class Calls:
    """Makes the calls of one client.

    `attempts` is the total number of attempts of a safe call. A call is safe when repeating it does
    no harm: reads, and generations without output so far. `default_timeout_s` applies to calls
    without a timeout of their own. Every call carries the `api_key`, if it is not empty.
    """

    def __init__(
        self, *, attempts: int, default_timeout_s: float | None = None, api_key: ApiKey = ""
    ) -> None:
        self._attempts = attempts
        self._default_timeout_s = default_timeout_s
        self._api_key = api_key

    async def unary(
        self,
        method: UnaryMethod[Request, T],
        request: Request,
        timeout_s: float | None,
        *,
        safe: bool,
        anonymous: bool = False,
    ) -> T:
        """Returns the response; `timeout_s` bounds all attempts together.

        An anonymous call carries no key.
        """

        async def attempt(remaining_s: float | None) -> T:
            metadata = trace_metadata() if anonymous else await self._metadata()
            return await method(request, timeout=remaining_s, metadata=metadata)

        return await self._with_retries(attempt, timeout_s, safe=safe)

    async def stream(
        self,
        method: StreamMethod[Request, Response],
        request: Request,
        timeout_s: float | None,
        *,
        safe: bool,
    ) -> AsyncGenerator[Response]:
        """Yields the stream's messages; a safe stream is retried until its first message.

        Leaving the iteration early cancels the call.
        """

        async def attempt(
            remaining_s: float | None,
        ) -> tuple[aio.UnaryStreamCall[Request, Response], Any]:
            call = method(request, timeout=remaining_s, metadata=await self._metadata())
            try:
                return call, await call.read()
            except BaseException:
                call.cancel()
                raise

        call, message = await self._with_retries(attempt, timeout_s, safe=safe)
        try:
            while message is not aio.EOF:
                yield cast("Response", message)
                message = await call.read()
        finally:
            call.cancel()

    async def _metadata(self) -> Metadata | None:
        source = self._api_key
        key = source if isinstance(source, str) else check_key(await source())
        return (*(trace_metadata() or ()), *bearer(key)) if key else trace_metadata()

    async def _with_retries(
        self,
        attempt: Callable[[float | None], Awaitable[T]],
        timeout_s: float | None,
        *,
        safe: bool,
    ) -> T:
        timeout_s = self._default_timeout_s if timeout_s is None else timeout_s
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s

        async def bounded() -> T:
            return await attempt(None if deadline_s is None else deadline_s - time.monotonic())

        attempts = stop_after_attempt(self._attempts if safe else 1)
        retrying = AsyncRetrying(
            stop=attempts if timeout_s is None else attempts | stop_before_delay(timeout_s),
            retry=retry_if_exception(is_retryable),
            wait=_wait_s,
            reraise=True,
        )
        return await retrying(bounded)


def is_retryable(error: BaseException) -> bool:
    """Whether the peer is unavailable, or named a delay to wait for; long delays are not.

    A service that its first use starts is not waited for: a read may come before any use.
    """
    if isinstance(error, NotStarted):
        return False
    if not isinstance(error, MeshError) or (error.retry_delay_s or 0.0) > MAX_RETRY_DELAY_S:
        return False
    return isinstance(error, ServiceUnavailable) or (
        error.retryable and error.retry_delay_s is not None
    )


def _wait_s(state: RetryCallState) -> float:
    """The delay that the mesh asks for, plus jitter so that callers do not retry all at once."""
    assert state.outcome is not None
    error = state.outcome.exception()
    delay_s = error.retry_delay_s if isinstance(error, MeshError) else None
    return (delay_s or 0.0) + _BACKOFF(state)


def trace_metadata() -> Metadata | None:
    """The trace context of the current OpenTelemetry span; None without one.

    OpenTelemetry is not imported here: a program that has a span has imported it.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items()) or None
