"""Serves relays: runs the calls that gateways open on them, and writes what all of them output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import grpc
from grpc import aio

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceServicer
from mlxmesh_generation.relay import convert
from mlxmesh_generation.relay.call import RelayedCall
from mlxmesh_generation.relay.outbox import Outbox, OutputStream
from mlxmesh_shared.errors import Draining, InvalidArgument
from mlxmesh_shared.rpc.carried_call import Behaviour, Guarded

Context = aio.ServicerContext[Any, Any]

_SERVICE = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name
RELAY = f"/{_SERVICE}/Relay"


class Relays:
    """The relays of one server."""

    def __init__(self, guarded: Guarded) -> None:
        self._guarded = guarded
        self._behaviours: Mapping[str, Behaviour] = {}
        self._open: set[_Relay] = set()
        self._closing = False

    async def serve(
        self,
        servicer: GenerationServiceServicer,
        requests: AsyncIterator[pb.RelayRequest],
        context: Context,
    ) -> None:
        """Carries calls of the servicer until the gateway or a drain ends the relay.

        Raises: InvalidArgument, MalformedMessage, Draining.
        """
        if not self._behaviours:
            self._behaviours = _behaviours(servicer, self._guarded)
        relay = _Relay(self._behaviours, context)
        self._open.add(relay)
        if self._closing:
            relay.close()
        try:
            await relay.run(requests)
        finally:
            self._open.discard(relay)

    def close(self) -> None:
        """Refuses further calls, here and elsewhere; each relay ends after its last call."""
        self._closing = True
        for relay in self._open:
            relay.close()


class _Relay:
    """One relay: its running calls by the gateway's stream id, and their output."""

    def __init__(self, behaviours: Mapping[str, Behaviour], context: Context) -> None:
        self._behaviours = behaviours
        self._context = context
        self._outbox = Outbox()
        self._calls: dict[int, RelayedCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_id = 0
        self._closing = False
        self._half_closed = False

    async def run(self, requests: AsyncIterator[pb.RelayRequest]) -> None:
        reader = asyncio.create_task(self._run_commands(requests))
        try:
            while outputs := await self._outbox.take():
                await self._context.write(convert.relay_response(outputs))
            if reader.done():
                await reader
            else:
                raise _draining()
        finally:
            reader.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(reader, *self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Refuses further calls; the relay ends after its last one."""
        self._closing = True
        self._end_if_done()

    async def _run_commands(self, requests: AsyncIterator[pb.RelayRequest]) -> None:
        try:
            async for request in requests:
                self._run_command(request)
                await self._outbox.wait_room()
        except BaseException:
            self._outbox.close()
            raise
        self._half_closed = True
        self._end_if_done()

    def _run_command(self, request: pb.RelayRequest) -> None:
        for opened in request.open:
            self._start(opened)
        for credit in request.credit:
            if (call := self._calls.get(credit.stream_id)) is not None:
                call.output.add_credit(credit.messages)
        for stream_id in request.cancel_stream_ids:
            if (call := self._calls.pop(stream_id, None)) is not None:
                call.cancel()

    def _start(self, opened: pb.OpenStream) -> None:
        stream_id = opened.stream_id
        if stream_id <= self._last_id:
            raise InvalidArgument(
                f"open.stream_id: {stream_id} is not greater than every earlier one",
                field="open.stream_id",
            )
        self._last_id = stream_id
        output = OutputStream(self._outbox, stream_id, opened.credit)
        if self._closing:
            output.end(_draining())
            return
        method = opened.WhichOneof("request")
        assert method is not None, "the server has checked the message"
        call = self._calls[stream_id] = RelayedCall(
            self._context,
            request=getattr(opened, method),
            metadata=opened.metadata.items(),
            timeout_s=opened.timeout_ms / 1000 if opened.HasField("timeout_ms") else None,
            output=output,
        )
        task = call.start(self._behaviours[method])
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_done, stream_id))

    def _on_done(self, stream_id: int, task: asyncio.Task[None]) -> None:
        self._calls.pop(stream_id, None)
        self._tasks.discard(task)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if (self._closing or self._half_closed) and not self._tasks:
            self._outbox.close()


def _behaviours(servicer: GenerationServiceServicer, guarded: Guarded) -> Mapping[str, Behaviour]:
    """The behaviour of the method that each field of OpenStream names."""
    methods: Mapping[str, tuple[str, Any, Any]] = {
        "generate": ("Generate", servicer.Generate, pb.GenerateRequest),
        "attach": ("AttachGeneration", servicer.AttachGeneration, pb.AttachGenerationRequest),
        "resume": ("ResumeGeneration", servicer.ResumeGeneration, pb.ResumeGenerationRequest),
    }
    return {
        field: guarded(
            f"/{_SERVICE}/{name}",
            grpc.unary_stream_rpc_method_handler(
                behaviour, request_deserializer=request.FromString
            ),
        )
        for field, (name, behaviour, request) in methods.items()
    }


def _draining() -> Draining:
    return Draining("this instance is stopping; try again at another")
