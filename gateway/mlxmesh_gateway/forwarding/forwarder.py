"""Forwards calls as bytes to the instances behind the gateway."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from grpc import aio

from mlxmesh_gateway.forwarding.attempts import Answered, Attempts, Try
from mlxmesh_gateway.forwarding.backends import Backends
from mlxmesh_gateway.forwarding.convert import newest
from mlxmesh_gateway.forwarding.endpoint import Endpoint
from mlxmesh_gateway.forwarding.generate_stream import GENERATE, GenerateStream, Write
from mlxmesh_gateway.forwarding.routes import Route
from mlxmesh_gateway.forwarding.search import (
    ALL_TIMEOUT_S,
    FIRST_TIMEOUT_S,
    every_success,
    first_success,
)
from mlxmesh_gateway.forwarding.telemetry import RelayCounts, describe_answer, describe_stream
from mlxmesh_gateway.forwarding.traffic import ENCODED, GatewayTraffic
from mlxmesh_gateway.forwarding.used import Used
from mlxmesh_shared.errors import MeshError

T = TypeVar("T")
COMPLETE = "/mlxmesh.generation.v1.GenerationService/Complete"
GET = "/mlxmesh.generation.v1.GenerationService/GetGeneration"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardedCall:
    """One call on its way to an instance."""

    route: Route
    request: bytes
    key: str
    """Shared by the calls that must reach one instance; empty for most."""
    hedge_after_s: float | None
    """When a second instance is asked as well; None for never."""
    options: Callable[[], dict[str, Any]]
    """The timeout and metadata of a call to an instance that starts now."""
    write: Write
    used: Used = field(default_factory=Used)
    """Filled in for generations."""


class Forwarder:
    """Forwards each call as its route's policy says."""

    def __init__(
        self, backends: Backends, *, resume_wait_s: float, traffic: GatewayTraffic
    ) -> None:
        self._backends = backends
        self._resume_wait_s = resume_wait_s
        self._traffic = traffic
        self.counts = RelayCounts()

    async def forward(self, call: ForwardedCall) -> bytes | None:
        """The response; None for a stream. Raises: the error of the last attempt."""
        route = call.route
        if route.policy.everywhere:
            return await (self._find_stream(call) if route.streams else self._find(call))
        if route.path == GENERATE:
            return await self._generate(call)
        if route.path == COMPLETE:
            return await self._complete(call)
        if route.path in ENCODED:
            return await self._encode(call)
        return await (self._stream(call) if route.streams else self._unary(call))

    async def _unary(self, call: ForwardedCall) -> bytes:
        async def ask(endpoint: Endpoint, _answered: Answered) -> bytes:
            call.used.generation_id = endpoint.instance.instance_id
            return await endpoint.unary(call.route.path)(call.request, **call.options())

        answer = await self._attempts(call, ask).run(call.hedge_after_s)
        describe_answer(call.route.path, answer)
        return answer

    async def _complete(self, call: ForwardedCall) -> bytes:
        with self._traffic.generation(call.used) as observed:
            answer = await self._unary(call)
            observed.answer(answer)
            return answer

    async def _encode(self, call: ForwardedCall) -> bytes:
        with self._traffic.generation(call.used) as observed:
            answer = await self._unary(call)
            observed.encoded(ENCODED[call.route.path].FromString(answer))
            return answer

    async def _stream(self, call: ForwardedCall) -> None:
        async def forward(endpoint: Endpoint, answered: Answered) -> None:
            messages = endpoint.stream(call.route.path)(call.request, **call.options())
            try:
                message = await messages.read()
                answered()
                await self._write_all(call, messages, message)
            finally:
                messages.cancel()

        await self._attempts(call, forward).run(call.hedge_after_s)

    async def _write_all(self, call: ForwardedCall, messages: Any, message: Any) -> None:
        while message is not aio.EOF:
            await call.write(message)
            self.counts.messages += 1
            message = await messages.read()

    async def _generate(self, call: ForwardedCall) -> None:
        observed = self._traffic.generation(call.used)
        stream = GenerateStream(
            call.request,
            write=call.write,
            candidates=lambda: self._candidates(call),
            call_options=call.options,
            resume_wait_s=self._resume_wait_s,
            observe=observed.message,
            counts=self.counts,
            used=call.used,
        )
        try:
            with observed:
                try:
                    await self._attempts(call, stream.begin).run(call.hedge_after_s)
                except MeshError as error:
                    await stream.go_on(error)
        finally:
            if not observed.finished:
                call.used.completion_tokens = stream.recording.used_tokens
            describe_stream(stream.recording)

    def _attempts(self, call: ForwardedCall, attempt: Try[T]) -> Attempts[T]:
        route = call.route
        endpoints = self._candidates(call)
        return Attempts(
            attempt,
            endpoints if route.policy.safe else endpoints[:1],
            self._backends.retry_budget(route.backend),
        )

    def _candidates(self, call: ForwardedCall) -> list[Endpoint]:
        """With a key, every gateway puts the same instance first, so that repeats meet."""
        route = call.route
        if call.key:
            return self._backends.by_key(route.backend, call.key)
        return self._backends.by_preference(route.backend, may_try=route.policy.safe)

    async def _find(self, call: ForwardedCall) -> bytes:
        async def ask(endpoint: Endpoint) -> bytes:
            async with endpoint.busy():
                return await endpoint.unary(call.route.path)(call.request, **call.options())

        if call.route.path != GET:  # all get the request, and one success suffices
            return (await every_success(self._candidates(call), ask, FIRST_TIMEOUT_S))[0]
        found = await every_success(self._candidates(call), ask, ALL_TIMEOUT_S)
        return newest(found) if len(found) > 1 else found[0]

    async def _find_stream(self, call: ForwardedCall) -> None:
        async with AsyncExitStack() as stack:

            async def begin(endpoint: Endpoint) -> tuple[Any, Any]:
                # Busy from its begin to its end: a channel without a call may be closed.
                async with AsyncExitStack() as begun:
                    await begun.enter_async_context(endpoint.busy())
                    messages = endpoint.stream(call.route.path)(call.request, **call.options())
                    begun.callback(messages.cancel)
                    message = await messages.read()
                    stack.push_async_exit(begun.pop_all())
                return messages, message

            first, *others = self._candidates(call)
            messages, message = await first_success(first, others, begin)
            await self._write_all(call, messages, message)
