"""The guard around every handler: it rejects illegal requests and hides internal errors.

For each call it asks the entrance, parses and validates the request, runs the
handler, and turns an error into a status with details. It logs one access record, without payload.
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Container
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol

import grpc
from grpc import aio

from mlxmesh_shared.errors import (
    Draining,
    Internal,
    MeshError,
    TooManyRequests,
    Unauthenticated,
)
from mlxmesh_shared.host.disk import disk_error
from mlxmesh_shared.rpc.access_log import (
    DeferredTasks,
    access_level,
    first_error,
    record_access,
    redacted_trace,
)
from mlxmesh_shared.rpc.entrance import Entrance, Release
from mlxmesh_shared.rpc.error_status import from_rpc_error, to_status
from mlxmesh_shared.rpc.handlers import UNKNOWN_METHOD, Behaviour, behaviour_of, with_behaviour
from mlxmesh_shared.rpc.methods import is_background
from mlxmesh_shared.rpc.requests import Receiver
from mlxmesh_shared.rpc.requests.receiver import Context, Held, Receive
from mlxmesh_shared.tls.recalled import RecalledCertificates, peer_fingerprint

_log = logging.getLogger(__name__)

MAX_UNCOUNTED_STREAMS = 1000
"""Of each method whose streams the limit of concurrent calls does not count."""


class WatchedCall(Protocol):
    """A call in progress that a watcher observes."""

    def end(self, code: grpc.StatusCode, took_s: float, ended_ns: int) -> None: ...


class CallWatcher(Protocol):
    """Observes the start of each call, and shortly after its end the end, in the call's context."""

    def begin(self, method: str, context: Context) -> WatchedCall: ...


class CallGuard(aio.ServerInterceptor):
    """Guards all methods of one server."""

    def __init__(
        self,
        *,
        service: str,
        receiver: Receiver,
        entrance: Entrance,
        log_successes: bool = True,
        watcher: CallWatcher | None = None,
        carriers: Container[str] = (),
        recalled: RecalledCertificates | None = None,
    ) -> None:
        """carriers: methods whose streams carry other calls; those are counted and measured.
        recalled: certificates whose callers are refused, and their running calls ended.
        """
        self._service = service
        self._receiver = receiver
        self._entrance = entrance
        self._log_successes = log_successes
        self._watcher = watcher
        self._carriers = carriers
        self._uncounted_streams: Counter[str] = Counter()
        self._guarded: dict[str, tuple[Any, Any]] = {}
        self._unknown = self._guard("(unknown)", UNKNOWN_METHOD)
        self._recalled = recalled
        self._refused = frozenset[str]()
        # Running calls by the task that handles them, and why those end that were cancelled here.
        self._running: dict[asyncio.Task[Any] | None, tuple[str, Context]] = {}
        self._ended: dict[asyncio.Task[Any] | None, MeshError] = {}
        self._deferred = DeferredTasks()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """The guarded handler of a method, or one that returns UNIMPLEMENTED if it is unknown."""
        method: str = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            # Its name may be any text from the caller, which must not be logged.
            return self._unknown
        known, guarded = self._guarded.get(method, (None, None))
        if known is not handler:
            guarded = self._guard(method, handler)
            self._guarded[method] = (handler, guarded)
        return guarded

    def flush(self) -> None:
        """Records the calls that have ended now instead of shortly after."""
        self._deferred.flush()

    def end_calls(self, chosen: Callable[[str], bool]) -> None:
        """Ends the running calls of the chosen methods with UNAVAILABLE (DRAINING)."""
        self._end(lambda method, _: chosen(method), _DRAINING)

    async def until_ended(self, timeout_s: float) -> None:
        """Returns once no handler runs, not even to clean up after a cancelled call."""
        tasks = {task for task in self._running if task is not None} - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def _end(self, chosen: Callable[[str, Context], bool], why: MeshError) -> None:
        for task, (method, context) in self._running.items():
            if task is None or task in self._ended or not chosen(method, context):
                continue
            # A second cancellation would end the cleaning up after the first one.
            if not task.cancelling():
                self._ended[task] = why
                task.cancel()

    def _check_recalled(self, context: Context) -> None:
        """Raises: Unauthenticated for a caller whose certificate was recalled.

        With the first call after a change, running calls of such callers end.
        """
        refused = self._recalled.current() if self._recalled is not None else self._refused
        if refused is not self._refused:
            self._refused = refused
            self._end(lambda _, running: _fingerprint_of(running) in refused, _recalled())
        if refused and _fingerprint_of(context) in refused:
            raise _recalled()

    def behaviour(self, method: str, handler: Any) -> Behaviour:
        """The guarded behaviour of a method, for the calls of it that a carrier carries.

        It takes the stream of requests, or None for a context that has the one request.
        """
        behaviour = behaviour_of(handler)
        if handler.response_streaming and self._is_uncounted(method):
            behaviour = self._bounded(method, behaviour)
        receive = self._receiver.of(method, handler)

        async def serve(requests: Any, context: Context) -> Any:
            return await self._serve(method, receive, behaviour, requests, context)

        return serve

    def _guard(self, method: str, handler: Any) -> Any:
        return with_behaviour(handler, self.behaviour(method, handler))

    def _bounded(self, method: str, behaviour: Behaviour) -> Behaviour:
        """Streams that the limit of concurrent calls does not count have a limit of their own."""

        async def run(request: Any, context: Context) -> None:
            if self._uncounted_streams[method] >= MAX_UNCOUNTED_STREAMS:
                raise TooManyRequests(
                    f"{MAX_UNCOUNTED_STREAMS} streams of this method are open here",
                    retry_delay_s=1.0,
                )
            self._uncounted_streams[method] += 1
            try:
                await behaviour(request, context)
            finally:
                self._uncounted_streams[method] -= 1

        return run

    def _is_uncounted(self, method: str) -> bool:
        return is_background(method) or method in self._carriers

    async def _serve(
        self,
        method: str,
        receive: Receive,
        behaviour: Behaviour,
        requests: Any,
        context: Context,
    ) -> Any:
        # In one function: every context manager or generator would cost time in every call.
        started_s = time.perf_counter()
        code = grpc.StatusCode.OK
        release: Release | None = None
        held: Held = []
        task = asyncio.current_task()
        watched = self._watched(method, context)
        try:
            try:
                self._check_recalled(context)
                counted = not self._is_uncounted(method)
                release = await self._entrance.admit(method, context, counted=counted)
                self._running[task] = method, context
                return await behaviour(await receive(requests, context, held), context)
            except aio.AbortError:
                code = context.code()
                raise
            except asyncio.CancelledError:
                if task is None or task not in self._ended:
                    code = _cancelled_code(context)
                    raise
                task.uncancel()
                why = self._ended[task]
                code, status = why.code, to_status(why)
            except aio.InternalError:
                # gRPC accepted no response: the caller is gone, and the cancellation is on its way.
                code = _cancelled_code(context)
                raise asyncio.CancelledError from None
            except Exception as error:  # noqa: BLE001 - each becomes a status
                code, status = self._status_of(method, error)
            # Outside the except clause: gRPC stores what this raises. Inside, that would reference
            # the error, its frames and their request until the garbage collector runs.
            await context.abort_with_status(status)
        finally:
            self._running.pop(task, None)
            self._ended.pop(task, None)
            if release is not None:
                release()
            if held:
                self._receiver.release(held)
            self._conclude(method, context, code, time.perf_counter() - started_s, watched)

    def _watched(self, method: str, context: Context) -> WatchedCall | None:
        if self._watcher is None or self._is_uncounted(method):
            return None
        return self._watcher.begin(method, context)

    def _conclude(
        self,
        method: str,
        context: Context,
        code: grpc.StatusCode,
        took_s: float,
        watched: WatchedCall | None,
    ) -> None:
        """Records the call after its response was sent, with the current time and context."""
        recorded = access_level(method, code, log_successes=self._log_successes)
        if watched is None and recorded is None:
            return
        ended_ns = time.time_ns()
        peer = context.peer() if recorded is not None else ""
        principal = self._entrance.principal() if recorded is not None else ""

        def record() -> None:
            if recorded is not None:
                record_access(recorded, ended_ns, method, code, took_s, peer, principal)
            if watched is not None:
                watched.end(code, took_s, ended_ns)

        self._deferred.add(partial(copy_context().run, record))

    def _status_of(self, method: str, raised: Exception) -> tuple[grpc.StatusCode, Any]:
        known = self._known(method, raised)
        return known.code, to_status(known)

    def _known(self, method: str, raised: Exception) -> MeshError:
        error = first_error(raised)
        if isinstance(error, MeshError):
            return error
        if isinstance(error, aio.AioRpcError):
            return from_rpc_error(error)
        if isinstance(error, OSError) and (known := disk_error(error)) is not None:
            _log.error("%s failed: %s", method, known.message)
            return known
        short_id = secrets.token_hex(4)
        _log.error("%s failed, id %s\n%s", method, short_id, redacted_trace(error))
        return Internal(f"internal error; see the log of {self._service}, id {short_id}")


_DRAINING = Draining("this instance is stopping; try again at another")


def _recalled() -> Unauthenticated:
    return Unauthenticated(
        "the certificate was recalled, because its host was removed from the mesh; let the host"
        " join again"
    )


def _fingerprint_of(context: Context) -> str:
    return peer_fingerprint(context.auth_context())


def _cancelled_code(context: Context) -> grpc.StatusCode:
    # gRPC cancels a handler at its deadline as it does when the client disconnects.
    expired = context.time_remaining() == 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
