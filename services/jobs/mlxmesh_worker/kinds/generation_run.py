"""One generation on the generation services, over all losses of its instance."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from opentelemetry.context import get_current

from mlxmesh.generation.v1.generation_pb2 import (
    FINISH_REASON_CANCELLED,
    AttachGenerationRequest,
    CancelGenerationRequest,
    Finished,
    GenerateRequest,
    GetGenerationRequest,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.errors import (
    GenerationCancelled,
    GenerationExists,
    GenerationNotFound,
    MeshError,
    MessagesExpired,
    MessageTooLarge,
    ReaderReplaced,
    ServiceUnavailable,
)
from mlxmesh_shared.rpc.error_status import from_failure
from mlxmesh_shared.telemetry.tracing import metadata_of
from mlxmesh_worker.instances import Instances, Peer, is_lost
from mlxmesh_worker.kinds.convert_stream import Received, Replay, snapshot_messages
from mlxmesh_worker.kinds.sinks import Sink

_log = logging.getLogger(__name__)

Metadata = tuple[tuple[str, str], ...]

WAIT_FOR_INSTANCE_S = 5.0
POLL_INTERVAL_S = 0.5
_CANCEL_TIMEOUT_S = 2.0
_ASK_TIMEOUT_S = 5.0
# A request that crashes every instance must not crash them all, again and again.
_MAX_WITHOUT_PROGRESS = 3
_RETRY_S = 0.1


class _EndedEarly(Exception):
    """Somebody cancelled the generation."""


class _Stale(Exception):
    """The generation that was found cannot be gone on with: it has ended early, or its first
    messages are gone.
    """


class GenerationRun:
    """Runs one generation to its end, and passes each part of its output on once.

    A generation is found by its request_id: an instance that has it, from an earlier attempt or
    before a connection was lost, is asked before anything is generated again.
    """

    def __init__(
        self,
        *,
        instances: Instances,
        request: GenerateRequest,
        metadata: Metadata,
        received: Received,
        sink: Sink,
        timeout_s: float | None,
        on_output: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """request: with its request_id and seed; received: what is stored of an earlier attempt.

        timeout_s: after which the instance may end the generation; None for no limit.
        """
        self._instances = instances
        self._request = request
        self._metadata = metadata
        self._received = received
        self._sink = sink
        self._until_s = None if timeout_s is None else clock() + timeout_s
        self._on_output = on_output
        self._clock = clock
        self._reads: Peer | None = None
        self.resumptions = 0
        """How often an instance was lost."""

    async def run(self, *, attach: bool) -> Finished:
        """The end of the whole generation.

        attach: whether an earlier attempt may have begun it.
        Raises: MeshError; ServiceUnavailable when instances are lost again and again.
        """
        without_progress = 0
        while True:
            tokens = self._received.tokens
            try:
                return await self._once(attach)
            except MeshError as error:
                without_progress = 0 if self._received.tokens > tokens else without_progress + 1
                if not is_lost(error) or without_progress >= _MAX_WITHOUT_PROGRESS:
                    raise
                _log.info("%s lost its instance: %s", self._request.request_id, error.message)
            attach = True
            self.resumptions += 1
            await asyncio.sleep(_RETRY_S)

    async def is_there(self) -> bool:
        """Whether the instance that it is read from says that it has it: it runs, or waits there.

        That an engine hangs is found by its runtime, which restarts it.
        """
        peer = self._reads
        if peer is None:
            return False
        request = GetGenerationRequest(request_id=self._key)
        options: dict[str, Any] = {**self._options(), "timeout": _ASK_TIMEOUT_S}
        try:
            async with peer.busy():
                stub = GenerationServiceStub(peer.channel)
                snapshot = await stub.GetGeneration(request, **options)
        except MessageTooLarge:
            return True
        except MeshError:
            return False
        return not snapshot.HasField("failure")

    async def cancel(self) -> None:
        """Ends the generation wherever it runs, and frees its request_id."""
        await asyncio.gather(*map(self._forget, self._instances.ordered(self._key)))

    @property
    def _key(self) -> str:
        return self._request.request_id

    async def _once(self, attach: bool) -> Finished:
        await self._instances.wait_for(self._key, WAIT_FOR_INSTANCE_S)
        if attach:
            finished = await self._attach_anywhere()
            if finished is not None:
                return finished
        return await self._generate_anywhere()

    async def _attach_anywhere(self) -> Finished | None:
        """None when no instance that answers has the generation."""
        for peer in self._instances.ordered(self._key):
            before = self._received.tokens
            try:
                return await self._attach(peer)
            except GenerationNotFound:
                continue
            except _Stale:
                await self._forget(peer)
            except MeshError as error:
                if is_lost(error) and self._received.tokens == before:
                    continue
                if is_lost(error):
                    raise
                await self._forget(peer)  # it had failed before
        return None

    async def _attach(self, peer: Peer) -> Finished:
        request = AttachGenerationRequest(request_id=self._key)

        async def messages() -> AsyncIterator[Any]:
            call = GenerationServiceStub(peer.channel).AttachGeneration(request, **self._options())
            async for response in call:
                yield response.message

        try:
            return await self._read(peer, messages())
        except (MessagesExpired, _EndedEarly) as error:
            raise _Stale from error

    async def _generate_anywhere(self) -> Finished:
        error: MeshError = ServiceUnavailable("no generation service is running; start one")
        for peer in self._instances.ordered(self._key):
            before = self._received.tokens
            try:
                return await self._generate(peer)
            except MeshError as failure:
                if not is_lost(failure) or self._received.tokens > before:
                    raise
                error = failure
        raise error

    async def _generate(self, peer: Peer) -> Finished:
        def messages() -> AsyncIterator[Any]:
            stub = GenerationServiceStub(peer.channel)
            return aiter(stub.Generate(self._fixed_request(), **self._options()))

        try:
            try:
                return await self._read(peer, messages())
            except GenerationExists:
                return await self._attach(peer)
            except MessagesExpired:
                await self._forget(peer)
                return await self._read(peer, messages())
        except (_EndedEarly, _Stale):
            raise GenerationCancelled("the generation of this job was cancelled") from None

    def _fixed_request(self) -> GenerateRequest:
        """With the version that an earlier part of the stream came from."""
        request = GenerateRequest()
        request.CopyFrom(self._request)
        request.detached = True
        started = self._received.started
        if started is not None and started.model_version:
            request.model = f"{started.model}@{started.model_version}"
        return request

    async def _read(self, peer: Peer, messages: AsyncIterator[Any]) -> Finished:
        async with peer.busy():
            self._reads = peer
            replay = Replay(self._received)
            try:
                async for message in messages:
                    await self._pass_on(replay, message)
            except ReaderReplaced:
                # Its owner reads it; whoever attached last gets the stream.
                return await self._poll(peer)
        if replay.last is None:
            raise ServiceUnavailable("the stream ended before the generation did")
        return replay.last

    async def _poll(self, peer: Peer) -> Finished:
        stub = GenerationServiceStub(peer.channel)
        request = GetGenerationRequest(request_id=self._key)
        while True:
            try:
                snapshot = await stub.GetGeneration(request, **self._options())
            except MessageTooLarge:
                return await self._attach(peer)
            except GenerationNotFound as error:
                raise _EndedEarly from error  # its owner had it forgotten
            if snapshot.HasField("failure"):
                raise from_failure(snapshot.failure)
            replay = Replay(self._received)
            for message in snapshot_messages(snapshot):
                await self._pass_on(replay, message)
            if replay.last is not None:
                return replay.last
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _pass_on(self, replay: Replay, message: Any) -> None:
        if message.finished.finish_reason == FINISH_REASON_CANCELLED:
            raise _EndedEarly
        new = replay.new(message)
        if new is not None:
            await self._sink.add(new)
            self._on_output()

    async def _forget(self, peer: Peer) -> None:
        request = CancelGenerationRequest(request_id=self._key, forget=True)
        options: dict[str, Any] = {**self._options(), "timeout": _CANCEL_TIMEOUT_S}
        with suppress(MeshError):
            async with peer.busy():
                await GenerationServiceStub(peer.channel).CancelGeneration(request, **options)

    def _options(self) -> dict[str, Any]:
        timeout = None if self._until_s is None else max(0.0, self._until_s - self._clock())
        return {
            "timeout": timeout,
            "metadata": (*metadata_of(get_current()), *self._metadata),
        }
