"""Relays public calls as bytes: a request is parsed once, for its rules; an answer never."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from mlxmesh_gateway.attempts import Answered, Attempts, Try
from mlxmesh_gateway.backends import Backends, Endpoint
from mlxmesh_gateway.limits import HEDGE_MS, Deadlines, forwarded, hedge_after_s
from mlxmesh_gateway.routes import Route
from mlxmesh_gateway.statuses import service_status
from mlxmesh_shared.caller import caller_of
from mlxmesh_shared.errors import (
    Cancelled,
    InvalidArgument,
    MalformedMessage,
    MeshError,
    NotFound,
    ServiceUnavailable,
)
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.server import remaining_s

T = TypeVar("T")
Context = aio.ServicerContext[Any, Any]


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
            hedge_s = self._check(route, request, context)
            return await self._translated(relayed(route, request, context, hedge_s), context)

        async def stream(request: bytes, context: Context) -> None:
            hedge_s = self._check(route, request, context)
            await self._translated(self._stream(route, request, context, hedge_s), context)

        if route.streams:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)

    def _check(self, route: Route, request: bytes, context: Context) -> float | None:
        """When to hedge, if the caller may and wants to."""
        try:
            message: Any = route.request_class.FromString(request)
        except DecodeError:
            name = route.request_class.DESCRIPTOR.full_name
            raise MalformedMessage(f"the message is not a valid {name}") from None
        self._validator.check(message)
        after_s = hedge_after_s(context.invocation_metadata()) if route.policy.hedged else None
        if after_s is not None and _outlives_its_call(message):
            raise InvalidArgument(
                f"{HEDGE_MS} does not go with a request_id: the generation would run twice to its"
                " end; leave one of them out",
                field=HEDGE_MS,
            )
        return after_s

    async def _unary(
        self, route: Route, request: bytes, context: Context, hedge_after_s: float | None
    ) -> bytes:
        options = self._call_options(route, context)

        async def ask(endpoint: Endpoint, _answered: Answered) -> bytes:
            return await endpoint.unary(route.path)(request, **options())

        return await self._attempts(route, ask).run(hedge_after_s)

    async def _stream(
        self, route: Route, request: bytes, context: Context, hedge_after_s: float | None
    ) -> None:
        options = self._call_options(route, context)

        async def pass_on(endpoint: Endpoint, answered: Answered) -> None:
            call = endpoint.stream(route.path)(request, **options())
            try:
                message = await call.read()
                answered()
                while message is not aio.EOF:
                    await context.write(message)
                    message = await call.read()
            finally:
                call.cancel()

        await self._attempts(route, pass_on).run(hedge_after_s)

    def _attempts(self, route: Route, attempt: Try[T]) -> Attempts[T]:
        safe = route.policy.safe
        endpoints = self._backends.by_preference(route.backend, may_try=safe)
        return Attempts(
            attempt,
            endpoints if safe else endpoints[:1],
            self._backends.retry_budget(route.backend),
        )

    async def _everywhere(
        self, route: Route, request: bytes, context: Context, _hedge_after_s: float | None
    ) -> bytes:
        """The first good answer of all instances; else what stopped them, NOT_FOUND last."""
        options = self._call_options(route, context)

        async def ask(endpoint: Endpoint) -> bytes:
            async with endpoint.busy():
                return await endpoint.unary(route.path)(request, **options())

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

    def _call_options(self, route: Route, context: Context) -> Callable[[], dict[str, Any]]:
        """What a call gets that is made when this is called: the time that is left by then."""
        timeout_s = self.deadlines.timeout_s(remaining_s(context), lasting=route.policy.lasting)
        until_s = time.monotonic() + timeout_s
        metadata = forwarded(context.invocation_metadata(), caller=caller_of(context))
        return lambda: {"timeout": max(0.0, until_s - time.monotonic()), "metadata": metadata}

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


def _outlives_its_call(message: Any) -> bool:
    """Whether a generation's request carries an id, by which it can be found again."""
    generation = getattr(message, "generation", message)
    return bool(getattr(generation, "request_id", ""))
