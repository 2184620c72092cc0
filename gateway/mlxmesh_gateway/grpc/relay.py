"""Relays public calls as bytes: a request is parsed once, for its rules; an answer never."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from grpc import aio
from opentelemetry.context import get_current

from mlxmesh_gateway.door.limits import HEDGE_MS, Deadlines, forwarded, hedge_after_s
from mlxmesh_gateway.door.routes import Route
from mlxmesh_gateway.mesh.traffic import GatewayTraffic
from mlxmesh_gateway.upstream.attempts import Answered, Attempts, Try
from mlxmesh_gateway.upstream.backends import Backends, Endpoint
from mlxmesh_gateway.upstream.generate_stream import GENERATE, GenerateStream
from mlxmesh_gateway.upstream.statuses import service_status
from mlxmesh_gateway.upstream.telemetry import (
    RelayCounts,
    describe_answer,
    describe_request,
    describe_stream,
)
from mlxmesh_shared.errors import (
    Cancelled,
    InvalidArgument,
    MeshError,
    NotFound,
    ServiceUnavailable,
)
from mlxmesh_shared.rpc.caller import claimed_caller, owner_of
from mlxmesh_shared.rpc.requests import RequestParser
from mlxmesh_shared.rpc.server import remaining_s
from mlxmesh_shared.telemetry.tracing import metadata_of

T = TypeVar("T")
COMPLETE = "/mlxmesh.generation.v1.GenerationService/Complete"
Context = aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Call:
    """One call as the client made it."""

    route: Route
    request: bytes
    key: str
    """What calls have in common that must meet at one instance; empty for most."""
    hedge_after_s: float | None
    """When a second instance is to be asked beside the first; None for never."""
    options: Callable[[], dict[str, Any]]
    """What a call on to an instance gets that is made now."""


class Relay(grpc.GenericRpcHandler):
    """Serves every route by handing its calls to a backend."""

    def __init__(
        self,
        *,
        routes: Sequence[Route],
        backends: Backends,
        parser: RequestParser,
        deadlines: Deadlines,
        resume_wait_s: float,
        traffic: GatewayTraffic,
    ) -> None:
        self._traffic = traffic
        self._resume_wait_s = resume_wait_s
        self._backends = backends
        self._parser = parser
        self.deadlines = deadlines
        """Of the calls that come from now on."""
        self.counts = RelayCounts()
        self._handlers = {route.path: self._handler(route) for route in routes}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a public method, None for any other."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, route: Route) -> grpc.RpcMethodHandler[Any, Any]:
        # Without a deserializer gRPC hands over the bytes as they came.
        relayed = self._way(route)

        async def handle(request: bytes, context: Context) -> Any:
            call = await self._call(route, request, context)
            return await self._translated(relayed(call, context), context)

        if route.streams:
            return grpc.unary_stream_rpc_method_handler(handle)
        return grpc.unary_unary_rpc_method_handler(handle)

    def _way(self, route: Route) -> Callable[[Call, Context], Awaitable[Any]]:
        if route.policy.everywhere:
            return self._stream_everywhere if route.streams else self._everywhere
        if route.path == GENERATE:
            return self._generate
        if route.path == COMPLETE:
            return self._complete
        return self._stream if route.streams else self._unary

    async def _call(self, route: Route, request: bytes, context: Context) -> Call:
        """Raises: MalformedMessage, InvalidArgument."""
        caller = claimed_caller(context)
        message = await self._parser.parse(route.request_class, request, lambda: caller)
        describe_request(message)
        owner, request_id = owner_of(context), route.policy.key(message)
        # Another owner's generation with the same request_id is another generation.
        key = f"{owner} {request_id}" if request_id else ""
        after_s = hedge_after_s(context.invocation_metadata()) if route.policy.hedged else None
        if after_s is not None and key:
            raise InvalidArgument(
                f"{HEDGE_MS} does not go with a request_id: the generation would run twice to its"
                " end; leave one of them out",
                field=HEDGE_MS,
            )
        options = self._call_options(route, context, caller=caller, owner=owner)
        return Call(route, request, key, after_s, options)

    async def _unary(self, call: Call, _context: Context) -> bytes:
        async def ask(endpoint: Endpoint, _answered: Answered) -> bytes:
            return await endpoint.unary(call.route.path)(call.request, **call.options())

        answer = await self._attempts(call, ask).run(call.hedge_after_s)
        describe_answer(call.route.path, answer)
        return answer

    async def _complete(self, call: Call, context: Context) -> bytes:
        with self._traffic.generation() as observed:
            answer = await self._unary(call, context)
            observed.answer(answer)
            return answer

    async def _stream(self, call: Call, context: Context) -> None:
        async def pass_on(endpoint: Endpoint, answered: Answered) -> None:
            messages = endpoint.stream(call.route.path)(call.request, **call.options())
            try:
                message = await messages.read()
                answered()
                while message is not aio.EOF:
                    await context.write(message)
                    self.counts.messages += 1
                    message = await messages.read()
            finally:
                messages.cancel()

        await self._attempts(call, pass_on).run(call.hedge_after_s)

    async def _generate(self, call: Call, context: Context) -> None:
        with self._traffic.generation() as observed:
            stream = GenerateStream(
                call.request,
                write=context.write,
                candidates=lambda: self._candidates(call),
                call_options=call.options,
                resume_wait_s=self._resume_wait_s,
                observe=observed.message,
                counts=self.counts,
            )
            try:
                await self._attempts(call, stream.begin).run(call.hedge_after_s)
            except MeshError as error:
                await stream.go_on(error)
            finally:
                describe_stream(stream.recording)

    def _attempts(self, call: Call, attempt: Try[T]) -> Attempts[T]:
        route = call.route
        endpoints = self._candidates(call)
        return Attempts(
            attempt,
            endpoints if route.policy.safe else endpoints[:1],
            self._backends.retry_budget(route.backend),
        )

    def _candidates(self, call: Call) -> list[Endpoint]:
        """With a key, the same instance comes first at every gateway, so that repeats meet."""
        route = call.route
        if call.key:
            return self._backends.by_key(route.backend, call.key)
        return self._backends.by_preference(route.backend, may_try=route.policy.safe)

    async def _everywhere(self, call: Call, _context: Context) -> bytes:
        async def ask(endpoint: Endpoint) -> bytes:
            async with endpoint.busy():
                return await endpoint.unary(call.route.path)(call.request, **call.options())

        return await self._first_of_all(call, ask)

    async def _stream_everywhere(self, call: Call, context: Context) -> None:
        async with AsyncExitStack() as stack:

            async def begin(endpoint: Endpoint) -> tuple[Any, Any]:
                # Busy from its begin to its end: a channel that nobody uses may be closed.
                async with AsyncExitStack() as begun:
                    await begun.enter_async_context(endpoint.busy())
                    messages = endpoint.stream(call.route.path)(call.request, **call.options())
                    begun.callback(messages.cancel)
                    message = await messages.read()
                    stack.push_async_exit(begun.pop_all())
                return messages, message

            messages, message = await self._first_of_all(call, begin)
            while message is not aio.EOF:
                await context.write(message)
                self.counts.messages += 1
                message = await messages.read()

    async def _first_of_all(self, call: Call, ask: Callable[[Endpoint], Awaitable[T]]) -> T:
        """The first good answer of all instances; else what stopped them, NOT_FOUND last."""
        endpoints = self._backends.all(call.route.backend)
        asked = [asyncio.ensure_future(ask(endpoint)) for endpoint in endpoints]
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

    def _call_options(
        self, route: Route, context: Context, *, caller: str, owner: str
    ) -> Callable[[], dict[str, Any]]:
        """What a call gets that is made when this is called: the time that is left by then."""
        timeout_s = self.deadlines.timeout_s(remaining_s(context), lasting=route.policy.lasting)
        until_s = time.monotonic() + timeout_s
        metadata = (
            *metadata_of(get_current()),
            *forwarded(context.invocation_metadata(), caller=caller, owner=owner),
        )
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
