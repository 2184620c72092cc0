"""The relay of Generate: a stream that resumes at another instance when its own is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from grpc import aio

from mlxmesh.generation.v1.generation_pb2 import (
    GenerateRequest,
    ResumeGenerationRequest,
    ResumeGenerationResponse,
)
from mlxmesh_gateway.forwarding.attempts import Answered
from mlxmesh_gateway.forwarding.endpoint import Endpoint
from mlxmesh_gateway.forwarding.recording import Recording
from mlxmesh_gateway.forwarding.statuses import broke_off, is_gone
from mlxmesh_gateway.forwarding.telemetry import RelayCounts
from mlxmesh_gateway.forwarding.used import Used
from mlxmesh_shared.errors import MeshError, ServiceUnavailable, StreamLost

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
RESUME = "/mlxmesh.generation.v1.GenerationService/ResumeGeneration"
RETRY_PAUSE_S = 0.1
# A request that crashes every instance must not crash them all, again and again.
MAX_WITHOUT_PROGRESS = 3

Candidates = Callable[[], Sequence[Endpoint]]
"""The current instances, the best first. Raises ServiceUnavailable when there is none."""
CallOptions = Callable[[], dict[str, Any]]
"""The options of a call that starts now: the remaining time, and the metadata."""
Write = Callable[[bytes], Awaitable[None]]
Observe = Callable[[bytes], None]


class GenerateStream:
    """One client's stream: begin() it, and go_on() after a loss."""

    def __init__(
        self,
        request: bytes,
        *,
        write: Write,
        candidates: Candidates,
        call_options: CallOptions,
        resume_wait_s: float,
        observe: Observe = lambda _: None,
        counts: RelayCounts | None = None,
        used: Used | None = None,
    ) -> None:
        """`observe` gets each message as it arrives; `used` learns who answers."""
        self.recording = Recording(
            keeps_all=lambda: GenerateRequest.FromString(request).keep_request
        )
        """What the client has received."""
        self._request = request
        self._write = write
        self._counts = counts or RelayCounts()
        self._candidates = candidates
        self._call_options = call_options
        self._resume_wait_s = resume_wait_s
        self._observe = observe
        self._used = used or Used()
        self._lost: Endpoint | None = None
        self._takeovers = 0

    @property
    def answered(self) -> bool:
        """Whether the client has received any message."""
        return bool(self.recording)

    async def begin(self, endpoint: Endpoint, answered: Answered) -> None:
        """Forwards an instance's messages as bytes. Raises: the error that stopped it."""
        self._lost = endpoint
        self._used.generation_id = endpoint.instance.instance_id
        call = endpoint.stream(GENERATE)(self._request, **self._call_options())
        try:
            message = await call.read()
            answered()
            while message is not aio.EOF:
                await self._pass_on(message)
                message = await call.read()
        finally:
            call.cancel()
        self._check_finished()

    async def go_on(self, error: MeshError) -> None:
        """Resumes elsewhere until the end. Raises: `error` itself if it was no loss."""
        without_progress = 0
        while self.answered and _is_loss(error) and without_progress < MAX_WITHOUT_PROGRESS:
            tokens = self.recording.tokens
            try:
                return await self._resume(error)
            except MeshError as again:
                error = again
            without_progress = 0 if self.recording.tokens > tokens else without_progress + 1
        raise error

    async def _resume(self, error: MeshError) -> None:
        """Forwards the next part of the stream, from the first instance that accepts it.

        Raises: the error that stopped it, or the last refusal after resume_wait_s.
        """
        request = self._resume_request()
        give_up_s = time.monotonic() + self._resume_wait_s
        while True:
            for endpoint in self._others():
                try:
                    async with endpoint.busy():
                        return await self._pass_on_resumed(endpoint, self._numbered(request))
                except _NotTaken as refusal:
                    error = refusal.error
            if time.monotonic() >= give_up_s:
                raise error
            await asyncio.sleep(RETRY_PAUSE_S)

    def _resume_request(self) -> bytes:
        request = self.recording.resume_request(GenerateRequest.FromString(self._request))
        self.recording.resumptions += 1
        self._counts.resumptions += 1
        self._used.resumptions += 1
        return request.SerializeToString()

    def _numbered(self, request: bytes) -> bytes:
        """The instance that was asked last has the stream, even if its answer never arrives."""
        self._takeovers += 1
        # Encoded messages that are joined are one message.
        return request + ResumeGenerationRequest(takeover=self._takeovers).SerializeToString()

    def _others(self) -> Sequence[Endpoint]:
        """The lost instance is asked again only if there is no other."""
        try:
            endpoints = self._candidates()
        except ServiceUnavailable:
            return ()
        return [one for one in endpoints if one is not self._lost] or endpoints

    async def _pass_on_resumed(self, endpoint: Endpoint, request: bytes) -> None:
        """Raises: _NotTaken if it sent no message and another instance may; else the error."""
        taken = False
        call = endpoint.stream(RESUME)(request, **self._call_options())
        try:
            while (answer := await call.read()) is not aio.EOF:
                taken, self._lost = True, endpoint
                self._used.generation_id = endpoint.instance.instance_id
                message = ResumeGenerationResponse.FromString(answer).message.SerializeToString()
                await self._pass_on(message)
        except MeshError as error:
            final = isinstance(error, StreamLost)  # no instance can resume it
            if taken or final or not (error.retryable or _is_loss(error)):
                raise
            raise _NotTaken(error) from error
        finally:
            call.cancel()
        self._check_finished()

    async def _pass_on(self, message: bytes) -> None:
        self._observe(message)
        self.recording.add(message)
        await self._write(message)
        self._counts.messages += 1

    def _check_finished(self) -> None:
        if self.answered and not self.recording.finished:
            raise ServiceUnavailable(
                "the service ended the stream before the generation did; try again"
            )


class _NotTaken(Exception):
    def __init__(self, error: MeshError) -> None:
        super().__init__()
        self.error = error


def _is_loss(error: MeshError) -> bool:
    # Without a failed call as its cause, the error is our own: the stream ended early.
    ended_short = type(error) is ServiceUnavailable and error.__cause__ is None
    return ended_short or is_gone(error) or broke_off(error)
