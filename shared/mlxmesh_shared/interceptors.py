"""The guard around every handler: nothing illegal gets in, nothing secret gets out.

For each call: see whether the caller may, parse safely, check the rules, run, and turn whatever was
raised into a rich status. One access record per call, without payload.
"""

import asyncio
import contextlib
import logging
import secrets
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol, cast

import grpc
from google.protobuf.message import Message
from grpc import aio

from mlxmesh_shared.afterwards import Afterwards
from mlxmesh_shared.caller import caller_of, host_of
from mlxmesh_shared.errors import (
    Draining,
    Internal,
    InvalidArgument,
    MeshError,
    MethodNotFound,
    TooManyRequests,
    from_rpc_error,
    to_status,
)
from mlxmesh_shared.places import Places
from mlxmesh_shared.requests import Arrivals, HeldBytes, RequestParser
from mlxmesh_shared.requests.held_bytes import SMALL_BYTES
from mlxmesh_shared.requests.parser import check_size
from mlxmesh_shared.tls.method_access import MethodAccess

_access = logging.getLogger("mlxmesh.access")
_log = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]
Held = list[tuple[str, int]]
"""Whose bytes a call holds, and how many; empty for a small request."""
Receive = Callable[[Any, Context, Held], Awaitable[Any]]
"""What a handler gets: from the stream of encoded messages its one request, or all of them."""

MAX_INFRASTRUCTURE_BYTES = 64 * 1024
"""Of a request of health or reflection: they have a name or two."""
MAX_TELEMETRY_BYTES = 4 * 2**20
"""Of an OTLP export; the processes of the mesh send less than 1 MiB at once."""


class WatchedCall(Protocol):
    """A call that somebody watches."""

    def end(self, code: grpc.StatusCode, took_s: float, ended_ns: int) -> None: ...


class CallWatcher(Protocol):
    """Is told of each call's begin, and a little later of its end, in the call's own context."""

    def begin(self, method: str, context: Context) -> WatchedCall: ...


class CallGuard(aio.ServerInterceptor):
    """Guards all methods of one server."""

    def __init__(
        self,
        *,
        service: str,
        parser: RequestParser,
        max_message_bytes: int,
        max_held_bytes: int,
        places: Places | None,
        log_successes: bool = True,
        access: MethodAccess | None = None,
        watcher: CallWatcher | None = None,
        on_refused: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Without `places`, any number of calls may run.

        `on_refused` is told of each call that gets no place: how many are taken.
        """
        self._service = service
        self._parser = parser
        self._max_message_bytes = max_message_bytes
        self._places = places
        self._log_successes = log_successes
        self._access = access
        self._watcher = watcher
        self._on_refused = on_refused
        self._arrivals = Arrivals()
        self._held_bytes = HeldBytes(max_held_bytes)
        self._guarded: dict[str, tuple[Any, Any]] = {}
        self._unknown = self._guard("(unknown)", grpc.stream_stream_rpc_method_handler(_no_method))
        # Running calls by the task that handles each, and those that a drain has ended.
        self._running: dict[asyncio.Task[Any] | None, str] = {}
        self._ended: set[asyncio.Task[Any] | None] = set()
        self._afterwards = Afterwards()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """The handler of a method, guarded; one that answers UNIMPLEMENTED where there is none."""
        method: str = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            # Its name may be any text of the caller's, which belongs in no log.
            return self._unknown
        known, guarded = self._guarded.get(method, (None, None))
        if known is not handler:
            guarded = self._guard(method, handler)
            self._guarded[method] = (handler, guarded)
        return guarded

    def resize(self, limit: int, per_caller: int | None) -> None:
        """Changes how many calls may run, where that is bounded; those that run go on."""
        if self._places is not None:
            self._places.resize(limit, per_caller=per_caller)

    def catch_up(self) -> None:
        """Records the calls that have ended, which otherwise takes a moment."""
        self._afterwards.catch_up()

    def end_calls(self, chosen: Callable[[str], bool]) -> None:
        """Ends the running calls of the chosen methods with UNAVAILABLE (DRAINING)."""
        for task, method in self._running.items():
            if task is not None and task not in self._ended and chosen(method):
                self._ended.add(task)
                task.cancel()

    def _guard(self, method: str, handler: Any) -> Any:
        behaviour = _behaviour(handler)
        if handler.response_streaming:
            behaviour = _written(behaviour)
        receive = self._receiver(method, handler)

        async def serve(requests: Any, context: Context) -> Any:
            return await self._serve(method, receive, behaviour, requests, context)

        # For gRPC each method takes a stream: what takes one message would have it read to its end
        # before anything here is asked. There is no difference on the wire.
        make = _METHOD_HANDLERS[True, handler.response_streaming]
        return make(serve, response_serializer=handler.response_serializer)

    def _receiver(self, method: str, handler: Any) -> Receive:
        # No deserializer for gRPC: what one raises there becomes UNKNOWN with the raw text.
        cls = _message_class(handler.request_deserializer)
        max_bytes = min(self._max_message_bytes, _max_bytes(method))

        async def parsed(encoded: bytes, caller: str) -> Any:
            check_size(encoded, max_bytes)
            if cls is None:
                return encoded
            return await self._parser.parse(cls, encoded, caller)

        async def messages(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            async for encoded in requests:
                yield await parsed(encoded, _caller_of(context))

        async def receive(requests: Any, context: Context, held: Held) -> Any:
            if handler.request_streaming:
                return messages(requests, context)
            encoded = await self._arrivals.read(context)
            if len(encoded) <= SMALL_BYTES:
                return await parsed(encoded, "")
            caller = _caller_of(context)
            self._held_bytes.take(caller, len(encoded))
            held.append((caller, len(encoded)))
            return await parsed(encoded, caller)

        return receive

    async def _serve(
        self,
        method: str,
        receive: Receive,
        behaviour: Behaviour,
        requests: Any,
        context: Context,
    ) -> Any:
        # In one piece: each context manager or generator more costs every call.
        started_s = time.perf_counter()
        code = grpc.StatusCode.OK
        caller: str | None = None
        held: Held = []
        task = asyncio.current_task()
        watched = self._watched(method, context)
        try:
            try:
                self._authorize(method, context)
                caller = self._admitted(method, context)
                self._running[task] = method
                return await behaviour(await receive(requests, context, held), context)
            except aio.AbortError:
                code = context.code()
                raise
            except asyncio.CancelledError:
                if task is None or task not in self._ended:
                    code = _cancelled_code(context)
                    raise
                task.uncancel()
                code, status = _DRAINING.code, to_status(_DRAINING)
            except aio.InternalError:
                # gRPC took no answer of ours: the caller is gone, and this task is yet to hear it.
                code = _cancelled_code(context)
                raise asyncio.CancelledError from None
            except Exception as error:  # noqa: BLE001 - each becomes a status
                code, status = self._status_of(method, error)
            # Not within the handler above: gRPC keeps what this raises, and with it would be the
            # error, its frames and their request, until the garbage collector finds the cycle.
            await context.abort_with_status(status)
        finally:
            self._running.pop(task, None)
            self._ended.discard(task)
            if caller is not None and self._places is not None:
                self._places.give_back(caller, time.monotonic())
            for who, size_bytes in held:
                self._held_bytes.give_back(who, size_bytes)
            self._conclude(method, context, code, time.perf_counter() - started_s, watched)

    def _watched(self, method: str, context: Context) -> WatchedCall | None:
        if self._watcher is None or is_background(method):
            return None
        return self._watcher.begin(method, context)

    def _authorize(self, method: str, context: Context) -> None:
        if self._access is not None and not is_infrastructure(method):
            self._access.check(method, context)

    def _admitted(self, method: str, context: Context) -> str | None:
        """Whose place the call has taken, None when it needs none.

        Raises: TooManyRequests, InvalidArgument.
        """
        if self._places is None or is_background(method):
            return None
        caller = caller_of(context)
        delay_s = self._places.take(caller, time.monotonic())
        if delay_s is None:
            return caller
        self._on_refused(self._places.held)
        raise TooManyRequests(
            f"{self._places.held} calls are running here and there is no place for more of "
            "this caller's; try again later",
            retry_delay_s=delay_s,
        )

    def _conclude(
        self,
        method: str,
        context: Context,
        code: grpc.StatusCode,
        took_s: float,
        watched: WatchedCall | None,
    ) -> None:
        """Has the call recorded once its answer is on its way, as of now and in its own context."""
        recorded = self._recorded(method, code)
        if watched is None and recorded is None:
            return
        ended_ns = time.time_ns()
        peer = context.peer() if recorded is not None else ""

        def record() -> None:
            if recorded is not None:
                _record(recorded, ended_ns, method, code, took_s, peer)
            if watched is not None:
                watched.end(code, took_s, ended_ns)

        self._afterwards.add(partial(copy_context().run, record))

    def _recorded(self, method: str, code: grpc.StatusCode) -> int | None:
        """The level of a call's access record, None for no record."""
        succeeded = code is grpc.StatusCode.OK
        quiet = is_background(method) or (succeeded and not self._log_successes)
        level = logging.DEBUG if quiet else logging.INFO
        return level if _access.isEnabledFor(level) else None

    def _status_of(self, method: str, raised: Exception) -> tuple[grpc.StatusCode, Any]:
        known = self._known(method, raised)
        return known.code, to_status(known)

    def _known(self, method: str, raised: Exception) -> MeshError:
        error = _first(raised)
        if isinstance(error, MeshError):
            return error
        if isinstance(error, aio.AioRpcError):
            return from_rpc_error(error)
        short_id = secrets.token_hex(4)
        _log.error("%s failed, id %s\n%s", method, short_id, _trace(error))
        return Internal(f"internal error; see the log of {self._service}, id {short_id}")


_DRAINING = Draining("this instance is stopping; try again at another")
_METHOD_HANDLERS: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def is_infrastructure(method: str) -> bool:
    """Whether a method is health or reflection: no work of ours, never refused for load."""
    return method.startswith("/grpc.")


def is_background(method: str) -> bool:
    """Whether a method serves the mesh itself: infrastructure, and the receiving of telemetry.

    Watching the calls that bring what was watched would never end.
    """
    return is_infrastructure(method) or method.startswith("/opentelemetry.")


def _behaviour(handler: Any) -> Behaviour:
    if handler.request_streaming:
        return handler.stream_stream or handler.stream_unary
    return handler.unary_stream or handler.unary_unary


def _message_class(deserialize: Any) -> type[Message] | None:
    """The type that FromString is of; None for a handler that takes bytes."""
    owner = getattr(deserialize, "__self__", None)
    is_message = isinstance(owner, type) and issubclass(owner, Message)
    assert is_message or deserialize is None, "requests are parsed by a message's own FromString"
    return cast("type[Message]", owner) if is_message else None


def _max_bytes(method: str) -> int:
    if is_infrastructure(method):
        return MAX_INFRASTRUCTURE_BYTES
    return MAX_TELEMETRY_BYTES if is_background(method) else sys.maxsize


def _caller_of(context: Context) -> str:
    """Who takes the turns; whoever has no legal name takes those of its host."""
    try:
        return caller_of(context)
    except InvalidArgument:
        return host_of(context.peer())


def _written(behaviour: Behaviour) -> Behaviour:
    # Written by hand instead of yielded, so that a cancelled call closes the handler's generator,
    # and with it runs its `finally`, before the call counts as ended.
    async def write(request: Any, context: Context) -> None:
        responses = behaviour(request, context)
        if not hasattr(responses, "__aiter__"):
            await responses
            return
        async with contextlib.aclosing(responses):
            async for response in responses:
                await context.write(response)

    return write


def _record(
    level: int, ended_ns: int, method: str, code: grpc.StatusCode, took_s: float, peer: str
) -> None:
    outcome = {"code": code.name, "ms": round(took_s * 1000, 1), "peer": peer}
    extra = {"operation": "access", "fields": {"method": method, **outcome}}
    record = _access.makeRecord(_access.name, level, "", 0, "call", (), None, extra=extra)
    record.created = ended_ns / 1e9
    _access.handle(record)


def _first(error: BaseException) -> BaseException:
    """The first error of a task group's errors; the others fell with it."""
    if isinstance(error, BaseExceptionGroup):
        return _first(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return error


async def _no_method(_requests: Any, _context: Context) -> Any:
    raise MethodNotFound("there is no such method here; list the services by reflection")


def _cancelled_code(context: Context) -> grpc.StatusCode:
    # gRPC cancels a handler at the deadline just as when the client goes away.
    expired = context.time_remaining() == 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED


def _trace(error: BaseException) -> str:
    """Where an error came from, by frames and classes: its text may quote a prompt."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    cause = error.__cause__ or error.__context__
    before = f"{_trace(cause)}which led to\n" if cause is not None else ""
    return f"{before}{frames}{type(error).__qualname__}\n"
