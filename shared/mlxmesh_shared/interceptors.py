"""The guard around every handler: nothing illegal gets in, nothing secret gets out.

For each call: see whether the caller may, parse safely, check the rules, run, and turn whatever was
raised into a rich status. One access record per call, without payload.
"""

import asyncio
import contextlib
import logging
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol, cast

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio

from mlxmesh_shared.afterwards import Afterwards
from mlxmesh_shared.caller import caller_of
from mlxmesh_shared.disk import disk_error
from mlxmesh_shared.errors import (
    Draining,
    Internal,
    MalformedMessage,
    MeshError,
    MessageTooLarge,
    MethodNotFound,
    TooManyRequests,
    from_rpc_error,
    to_status,
)
from mlxmesh_shared.places import Places
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.tls.method_access import MethodAccess

_access = logging.getLogger("mlxmesh.access")
_log = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]


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
        validator: Validator,
        max_message_bytes: int,
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
        self._validator = validator
        self._max_message_bytes = max_message_bytes
        self._places = places
        self._log_successes = log_successes
        self._access = access
        self._watcher = watcher
        self._on_refused = on_refused
        self._guarded: dict[str, tuple[Any, Any]] = {}
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
            return _METHOD_HANDLERS[False, False](self._served("(unknown)", _no_method))
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
        # No deserializer for gRPC: what one raises there becomes UNKNOWN with the raw text.
        parsed = _parsed_stream if handler.request_streaming else _parsed
        behaviour = parsed(_behaviour(handler), self._parser(handler.request_deserializer))
        if handler.response_streaming:
            behaviour = _written(behaviour)
        make = _METHOD_HANDLERS[handler.request_streaming, handler.response_streaming]
        served = self._served(method, behaviour)
        return make(served, response_serializer=handler.response_serializer)

    def _parser(self, deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
        """Bytes to a checked message; a handler without deserializer gets the bytes."""

        def parse(encoded: bytes) -> Any:
            if len(encoded) > self._max_message_bytes:
                raise MessageTooLarge(
                    f"the message has {len(encoded)} bytes;"
                    f" at most {self._max_message_bytes} are accepted"
                )
            if deserialize is None:
                return encoded
            message = _deserialized(deserialize, encoded)
            if isinstance(message, Message):
                self._validator.check(message)
            return message

        return parse

    def _served(self, method: str, behaviour: Behaviour) -> Behaviour:
        async def serve(request: Any, context: Context) -> Any:
            return await self._serve(method, behaviour, request, context)

        return serve

    async def _serve(
        self, method: str, behaviour: Behaviour, request: Any, context: Context
    ) -> Any:
        # In one piece: each context manager or generator more costs every call.
        started_s = time.perf_counter()
        code = grpc.StatusCode.OK
        caller: str | None = None
        task = asyncio.current_task()
        watched = self._watched(method, context)
        try:
            self._authorize(method, context)
            caller = self._admitted(method, context)
            self._running[task] = method
            return await behaviour(request, context)
        except aio.AbortError:
            code = context.code()
            raise
        except asyncio.CancelledError:
            if task is None or task not in self._ended:
                code = _cancelled_code(context)
                raise
            task.uncancel()
            draining = Draining("this instance is stopping; try again at another")
            code = draining.code
            await context.abort_with_status(to_status(draining))
        except aio.InternalError:
            # gRPC took no answer of ours: the caller is gone, which this task is yet to be told.
            code = _cancelled_code(context)
            raise asyncio.CancelledError from None
        except Exception as error:  # noqa: BLE001 - each becomes a status
            known = self._known(method, error)
            code = known.code
            await context.abort_with_status(to_status(known))
        finally:
            self._running.pop(task, None)
            self._ended.discard(task)
            if caller is not None and self._places is not None:
                self._places.give_back(caller, time.monotonic())
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

    def _known(self, method: str, raised: Exception) -> MeshError:
        error = _first(raised)
        if isinstance(error, MeshError):
            return error
        if isinstance(error, aio.AioRpcError):
            return from_rpc_error(error)
        if isinstance(error, OSError) and (known := disk_error(error)) is not None:
            _log.error("%s failed: %s", method, known.message)
            return known
        short_id = secrets.token_hex(4)
        _log.error("%s failed, id %s\n%s", method, short_id, _trace(error))
        return Internal(f"internal error; see the log of {self._service}, id {short_id}")


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


def _parsed(behaviour: Behaviour, parse: Callable[[bytes], Any]) -> Behaviour:
    return lambda encoded, context: behaviour(parse(encoded), context)


def _parsed_stream(behaviour: Behaviour, parse: Callable[[bytes], Any]) -> Behaviour:
    async def messages(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for encoded in requests:
            yield parse(encoded)

    return lambda requests, context: behaviour(messages(requests), context)


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


def _deserialized(deserialize: Callable[[bytes], Any], encoded: bytes) -> Any:
    try:
        return deserialize(encoded)
    except (DecodeError, ValueError):
        # Its text may quote the message.
        raise MalformedMessage(
            "the message is not valid protobuf of the method's request type"
        ) from None


def _first(error: BaseException) -> BaseException:
    """The first error of a task group's errors; the others fell with it."""
    if isinstance(error, BaseExceptionGroup):
        return _first(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return error


async def _no_method(_request: Any, _context: Context) -> Any:
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
