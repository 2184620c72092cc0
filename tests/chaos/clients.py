"""Clients that write down what they see; they never retry a call, and attach where they can."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from google.protobuf.json_format import MessageToJson
from grpc import aio

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import (
    AttachGenerationRequest,
    FinishReason,
    GenerateRequest,
    GenerateResponse,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, SHORT_TIMEOUTS, open_channel
from mlxmesh_shared.tls import CertificateSource
from tests.chaos.history import OK, Call, Ending, Message

CALL_TIMEOUT_S = 120.0
ATTACH_PAUSE_S = 0.1
_POLL_S = 0.005
WORDS = ("A", "The naïve café 東京 ", "def f(x):", "1 2 3 4 ", "Ω≈ç√ and ", "Once upon a time")
Pause = Callable[[int], float]
"""How long to wait before reading on, by the number of messages that came."""


def no_pause(_: int) -> float:
    """Reads as fast as messages come."""
    return 0.0


def mixed_requests(count: int, *, max_tokens: int, model: str = "pocket") -> list[GenerateRequest]:
    """Different requests: greedy, seeded, with penalties, with stop texts that may match."""
    return [_mixed_request(number, max_tokens, model) for number in range(count)]


def _mixed_request(number: int, max_tokens: int, model: str) -> GenerateRequest:
    # Always with a seed: the simulated engine makes its tokens from it, greedy or not.
    settings: dict[str, Any] = {"seed": 1000 + number}
    kind = number % 4
    if kind:
        settings |= {"temperature": 0.9, "top_p": 0.95}
    if kind == 2:
        settings |= {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.2}
    return GenerateRequest(
        model=model,
        prompt=f"{WORDS[number % len(WORDS)]}{number}",
        max_tokens=max_tokens,
        sampling=Sampling(**settings),
        ignore_eos=True,
        stop=["\u2603\u2603", "zq zq"] if kind == 3 else [],
    )


class Reader:
    """One call, and what is seen of it."""

    timeout_s = CALL_TIMEOUT_S

    def __init__(
        self,
        stubs: Sequence[GenerationServiceStub],
        request: GenerateRequest,
        pause: Pause,
        *,
        call_id: str,
    ) -> None:
        """The request has an id of its own where the call may have to attach."""
        self.call_id = call_id
        self.messages: list[Message] = []
        self.tokens = 0
        self._stubs = stubs
        self._request = request
        self._pause = pause
        self._started_s = time.monotonic()
        self._ended_s: float | None = None
        self._status = ""
        self._ending: Ending | None = None
        self._attached = 0
        self._numbering = 0

    async def run(self) -> None:
        """Reads to the end of the call, through further gateways when one is lost."""
        deadline_s = time.monotonic() + self.timeout_s
        stream = self._stubs[0].Generate(self._request, timeout=self.timeout_s)
        status = await self._read(_plain(stream))
        while status is not OK and self._may_attach(status) and time.monotonic() < deadline_s:
            self._attached += 1
            await asyncio.sleep(ATTACH_PAUSE_S)
            stub = self._stubs[self._attached % len(self._stubs)]
            last = self.messages[-1].sequence if self.messages else 0
            ask = AttachGenerationRequest(
                request_id=self._request.request_id, after_sequence=last, numbering=self._numbering
            )
            left_s = max(0.1, deadline_s - time.monotonic())
            status = await self._read(_attached(stub.AttachGeneration(ask, timeout=left_s)))
        self._status, self._ended_s = status_of(status), time.monotonic()

    def call(self) -> Call:
        """As it stands: without status when it has not ended."""
        request = GenerateRequest()
        request.CopyFrom(self._request)
        request.ClearField("request_id")
        return Call(
            call_id=self.call_id,
            request=MessageToJson(request, indent=None),
            started_s=self._started_s,
            messages=list(self.messages),
            status=self._status,
            ended_s=self._ended_s,
            ending=self._ending,
            attached=self._attached,
        )

    def _may_attach(self, status: MeshError | str) -> bool:
        return len(self._stubs) > 1 and isinstance(status, MeshError) and status.retryable

    async def _read(self, responses: AsyncIterator[GenerateResponse]) -> MeshError | str:
        """How the stream ended."""
        try:
            async for response in responses:
                self._note(response)
                if pause_s := self._pause(len(self.messages)):
                    await asyncio.sleep(pause_s)
        except MeshError as error:
            return error
        return OK

    def _note(self, response: GenerateResponse) -> None:
        delta = response.delta
        tokens = tuple(delta.token_ids)
        self.messages.append(Message(response.sequence, time.monotonic(), tokens, delta.text))
        self.tokens += len(tokens)
        self._numbering = response.numbering
        if response.HasField("finished"):
            finished = response.finished
            self._ending = Ending(
                finish_reason=FinishReason.Name(finished.finish_reason),
                completion_tokens=finished.usage.completion_tokens,
                resumptions=finished.timings.resumptions,
            )


def status_of(status: MeshError | str) -> str:
    """As histories tell it: `OK`, or the code and reason of an error."""
    if isinstance(status, str):
        return status
    return f"{status.code.name}/{status.reason}"


async def _plain(stream: Any) -> AsyncIterator[GenerateResponse]:
    async for response in stream:
        yield response


async def _attached(stream: Any) -> AsyncIterator[GenerateResponse]:
    async for response in stream:
        yield response.message


class Crowd:
    """Many calls at once through one gateway, attached through the others; an async context.

    `connections` of its own for each gateway, so that none has too many calls.
    """

    def __init__(
        self,
        gateways: Sequence[str],
        *,
        connections: int = 1,
        certificates: CertificateSource | None = None,
        reader: type[Reader] = Reader,
    ) -> None:
        self._certificates = certificates
        self._reader = reader
        self.readers: list[Reader] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._channels: list[aio.Channel] = []
        self._patience = LONG_TIMEOUTS if len(gateways) == 1 else SHORT_TIMEOUTS
        self._stubs = [[self._stub(address) for address in gateways] for _ in range(connections)]

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()
        await self.disconnect()

    async def disconnect(self) -> None:
        """Closes every connection, whatever runs on it."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def start(
        self,
        requests: Sequence[GenerateRequest],
        label: str,
        *,
        pause: Pause = no_pause,
        kept: bool = True,
    ) -> list[Reader]:
        """Starts a call for each request, with an id that begins with the label.

        The mesh is told the ids of those that are `kept`: it goes on with them without a reader.
        """
        started: list[Reader] = []
        for number, request in enumerate(requests):
            own = GenerateRequest()
            own.CopyFrom(request)
            call_id = f"{label}-{number}"
            if kept:
                own.request_id = call_id
            stubs = self._stubs[number % len(self._stubs)]
            reader = self._reader(stubs, own, pause, call_id=call_id)
            self._tasks.append(asyncio.create_task(reader.run(), name=call_id))
            started.append(reader)
        self.readers += started
        return started

    async def until_each_has(self, tokens: int) -> None:
        """Returns when every call has so many tokens or has ended."""
        while not all(
            reader.tokens >= tokens or task.done()
            for reader, task in zip(self.readers, self._tasks, strict=True)
        ):
            await asyncio.sleep(_POLL_S)

    async def finish(self) -> list[Call]:
        """Waits for the ends of all calls, a little longer than they may take; what was seen."""
        await asyncio.wait(self._tasks, timeout=CALL_TIMEOUT_S + 10)
        await self.leave()
        return [reader.call() for reader in self.readers]

    async def leave(self) -> None:
        """Cancels what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _stub(self, address: str) -> GenerationServiceStub:
        channel = open_channel(
            address, role="gateway", certificates=self._certificates, timeouts=self._patience
        )
        self._channels.append(channel)
        return GenerationServiceStub(channel)
