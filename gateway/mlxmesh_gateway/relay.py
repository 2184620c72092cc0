"""Relays public calls as bytes: a request is parsed once, for its rules; an answer never."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from mlxmesh_gateway.backends import Backends, Endpoint
from mlxmesh_gateway.limits import Deadlines, Metadata, forwarded
from mlxmesh_gateway.routes import Route
from mlxmesh_shared.caller import caller_of
from mlxmesh_shared.errors import (
    Cancelled,
    Draining,
    MalformedMessage,
    MeshError,
    NotFound,
    ServiceUnavailable,
)
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.server import remaining_s

T = TypeVar("T")
Context = aio.ServicerContext[Any, Any]
Status = tuple[grpc.StatusCode, str, Metadata]

STATUS_DETAILS = "grpc-status-details-bin"
ATTEMPTS = 2


class Relay(grpc.GenericRpcHandler):
    """Serves every route by handing its calls to a backend."""

    def __init__(
        self,
        *,
        routes: Sequence[Route],
        backends: Backends,
        validator: Validator,
        deadlines: Deadlines,
    ) -> None:
        self._backends = backends
        self._validator = validator
        self.deadlines = deadlines
        """Of the calls that come from now on."""
        self._handlers = {route.path: self._handler(route) for route in routes}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a public method, None for any other."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, route: Route) -> grpc.RpcMethodHandler[Any, Any]:
        # Without a deserializer gRPC hands over the bytes as they came.
        relayed = self._everywhere if route.policy.everywhere else self._unary

        async def unary(request: bytes, context: Context) -> bytes:
            self._check(route, request)
            return await self._translated(relayed(route, request, context), context)

        async def stream(request: bytes, context: Context) -> None:
            self._check(route, request)
            await self._translated(self._stream(route, request, context), context)

        if route.streams:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)

    def _check(self, route: Route, request: bytes) -> None:
        try:
            message = route.request_class.FromString(request)
        except DecodeError:
            name = route.request_class.DESCRIPTOR.full_name
            raise MalformedMessage(f"the message is not a valid {name}") from None
        self._validator.check(message)

    async def _unary(self, route: Route, request: bytes, context: Context) -> bytes:
        options = self._call_options(route, context)

        async def ask(endpoint: Endpoint) -> bytes:
            return await endpoint.unary(route.path)(request, **options)

        return await self._with_failover(route, ask)

    async def _stream(self, route: Route, request: bytes, context: Context) -> None:
        options = self._call_options(route, context)
        answered = False

        async def pass_on(endpoint: Endpoint) -> None:
            nonlocal answered
            call = endpoint.stream(route.path)(request, **options)
            try:
                while (message := await call.read()) is not aio.EOF:
                    answered = True
                    await context.write(message)
            finally:
                call.cancel()

        await self._with_failover(route, pass_on, may_move=lambda: not answered)

    async def _with_failover(
        self,
        route: Route,
        attempt: Callable[[Endpoint], Awaitable[T]],
        *,
        may_move: Callable[[], bool] = lambda: True,
    ) -> T:
        """The first attempt that is not stopped by an instance that went away."""
        endpoints = self._backends.by_preference(route.backend)
        spares = endpoints[1 : ATTEMPTS if route.policy.safe else 1]
        endpoint = endpoints[0]
        while True:
            try:
                async with endpoint.busy():
                    return await attempt(endpoint)
            except MeshError as error:
                if not spares or not is_gone(error) or not may_move():
                    raise
                endpoint = spares.pop(0)

    async def _everywhere(self, route: Route, request: bytes, context: Context) -> bytes:
        """The first good answer of all instances; else what stopped them, NOT_FOUND last."""
        options = self._call_options(route, context)

        async def ask(endpoint: Endpoint) -> bytes:
            async with endpoint.busy():
                return await endpoint.unary(route.path)(request, **options)

        asked = [
            asyncio.create_task(ask(endpoint)) for endpoint in self._backends.all(route.backend)
        ]
        errors: list[MeshError] = []
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    return await answer
                except MeshError as error:
                    errors.append(error)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise min(errors, key=lambda error: isinstance(error, NotFound))

    def _call_options(self, route: Route, context: Context) -> dict[str, Any]:
        timeout_s = self.deadlines.timeout_s(remaining_s(context), lasting=route.policy.lasting)
        metadata = forwarded(context.invocation_metadata(), caller=caller_of(context))
        return {"timeout": timeout_s, "metadata": metadata}

    async def _translated(self, relayed: Awaitable[T], context: Context) -> T:
        """What `relayed` gives; a service's own status goes on as it came, details and all."""
        try:
            return await relayed
        except MeshError as error:
            if (status := service_status(error)) is not None:
                await context.abort(*status)
            if isinstance(error, Cancelled):
                # Nobody here cancelled, or this handler would not run: the instance gave up.
                raise ServiceUnavailable("the service ended the call; try again") from error
            raise


def is_gone(error: MeshError) -> bool:
    """Whether the instance could not be reached, broke off, or is leaving."""
    broke_off = isinstance(error, ServiceUnavailable | Cancelled) and service_status(error) is None
    return broke_off or isinstance(error, Draining)


def service_status(error: MeshError) -> Status | None:
    """The status as a service of the mesh wrote it; gRPC's own have no details and give None."""
    cause = error.__cause__
    trailing = cause.trailing_metadata() if isinstance(cause, aio.AioRpcError) else None
    details = trailing.get(STATUS_DETAILS) if trailing is not None else None
    if details is None or not isinstance(cause, aio.AioRpcError):
        return None
    return cause.code(), cause.details() or "", ((STATUS_DETAILS, details),)
