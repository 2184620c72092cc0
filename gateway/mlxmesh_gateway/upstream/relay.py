"""Relays public calls to instances as bytes; responses are never parsed for the relay."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

from grpc import aio

from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.door.spans import describe_answer
from mlxmesh_gateway.upstream.attempts import Answered, Attempts, Try
from mlxmesh_gateway.upstream.backends import Backends, Endpoint
from mlxmesh_gateway.upstream.first_answer import first_answer
from mlxmesh_gateway.upstream.generate_stream import GENERATE, GenerateStream
from mlxmesh_gateway.upstream.telemetry import RelayCounts, describe_stream
from mlxmesh_gateway.upstream.traffic import GatewayTraffic
from mlxmesh_shared.errors import MeshError

T = TypeVar("T")
COMPLETE = "/mlxmesh.generation.v1.GenerationService/Complete"
Write = Callable[[bytes], Awaitable[None]]


class Relay:
    """Relays calls that passed the door, for every transport. Raises: MeshError."""

    def __init__(
        self, backends: Backends, traffic: GatewayTraffic, *, resume_wait_s: float
    ) -> None:
        self._backends = backends
        self._traffic = traffic
        self._resume_wait_s = resume_wait_s
        self.counts = RelayCounts()

    async def unary(self, call: PublicCall) -> bytes:
        """The response to a call of a method with one response."""
        if call.route.policy.everywhere:
            return await self._unary_everywhere(call)
        if call.method != COMPLETE:
            return await self._unary(call)
        with self._traffic.generation() as observed:
            answer = await self._unary(call)
            observed.answer(answer)
            return answer

    async def stream(self, call: PublicCall, write: Write) -> None:
        """Writes each message of the response as it arrives."""
        if call.route.policy.everywhere:
            await self._stream_everywhere(call, write)
        elif call.method == GENERATE:
            await self._generate(call, write)
        else:
            await self._stream(call, write)

    async def _unary(self, call: PublicCall) -> bytes:
        async def ask(endpoint: Endpoint, _answered: Answered) -> bytes:
            return await endpoint.unary(call.method)(call.request, **_options(call))

        answer = await self._attempts(call, ask).run(call.hedge_after_s)
        describe_answer(call.method, answer)
        return answer

    async def _stream(self, call: PublicCall, write: Write) -> None:
        async def pass_on(endpoint: Endpoint, answered: Answered) -> None:
            messages = endpoint.stream(call.method)(call.request, **_options(call))
            try:
                message = await messages.read()
                answered()
                await self._write_all(messages, message, write)
            finally:
                messages.cancel()

        await self._attempts(call, pass_on).run(call.hedge_after_s)

    async def _generate(self, call: PublicCall, write: Write) -> None:
        with self._traffic.generation() as observed:
            stream = GenerateStream(
                call.request,
                write=write,
                candidates=partial(self._candidates, call),
                call_options=partial(_options, call),
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

    def _attempts(self, call: PublicCall, attempt: Try[T]) -> Attempts[T]:
        route = call.route
        endpoints = self._candidates(call)
        return Attempts(
            attempt,
            endpoints if route.policy.safe else endpoints[:1],
            self._backends.retry_budget(route.backend),
        )

    def _candidates(self, call: PublicCall) -> list[Endpoint]:
        """With a key, every gateway puts the same instance first, so that repeated calls meet."""
        route = call.route
        if call.key:
            return self._backends.by_key(route.backend, call.key)
        return self._backends.by_preference(route.backend, may_try=route.policy.safe)

    async def _unary_everywhere(self, call: PublicCall) -> bytes:
        async def ask(endpoint: Endpoint) -> bytes:
            async with endpoint.busy():
                return await endpoint.unary(call.method)(call.request, **_options(call))

        return await first_answer(self._candidates(call), ask)

    async def _stream_everywhere(self, call: PublicCall, write: Write) -> None:
        async with AsyncExitStack() as stack:

            async def begin(endpoint: Endpoint) -> tuple[Any, Any]:
                # Busy from its begin to its end: a channel that nobody uses may be closed.
                async with AsyncExitStack() as begun:
                    await begun.enter_async_context(endpoint.busy())
                    messages = endpoint.stream(call.method)(call.request, **_options(call))
                    begun.callback(messages.cancel)
                    message = await messages.read()
                    stack.push_async_exit(begun.pop_all())
                return messages, message

            messages, message = await first_answer(self._candidates(call), begin)
            await self._write_all(messages, message, write)

    async def _write_all(self, messages: Any, message: Any, write: Write) -> None:
        """Writes `message` and all that follow it."""
        while message is not aio.EOF:
            await write(message)
            self.counts.messages += 1
            message = await messages.read()


def _options(call: PublicCall) -> dict[str, Any]:
    """The options of a call to an instance that starts now."""
    return {"timeout": call.remaining_s(), "metadata": call.metadata}
