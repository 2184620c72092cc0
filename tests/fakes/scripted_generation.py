"""A whole mesh behind one port, for its clients: every generation is what a test wrote."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import add_GenerationServiceServicer_to_server
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh.model.v1.model_pb2_grpc import add_ModelServiceServicer_to_server
from mlxmesh_client.outputs import Outputs, to_event
from mlxmesh_shared.errors import GenerationNotFound
from mlxmesh_shared.rpc.server import MeshServer
from tests.fakes.public_services import GENERATION, MODEL, FakeGeneration, FakeModels

STARTED = g.Started(request_id="r-1", model="pocket", model_version=1, prompt_tokens=2, seed=7)


class ScriptedGeneration(FakeGeneration):
    """Its server checks requests by the contract's rules, as a gateway does."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[g.GenerateResponse] = []
        self._next: list[list[g.GenerateResponse]] = []

    def say_then(self, *events: g.Delta | g.PromptLogprobs | g.Finished) -> None:
        """Sets what the generations after the next one say."""
        before = self.messages
        self.say(*events)
        self._next.append(self.messages)
        self.messages = before

    def say(self, *events: g.Delta | g.PromptLogprobs | g.Finished, numbering: int = 0) -> None:
        """Sets what follows Started in every generation."""
        fields = {g.Delta: "delta", g.PromptLogprobs: "prompt_logprobs", g.Finished: "finished"}
        self.messages = [g.GenerateResponse(started=STARTED)]
        self.messages += [
            g.GenerateResponse(**{fields[type(event)]: event})  # pyright: ignore[reportArgumentType]
            for event in events
        ]
        for number, message in enumerate(self.messages, 1):
            message.sequence, message.numbering = number, numbering

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[g.GenerateResponse]:
        self.requests.append(request)
        messages = self.messages
        if self._next:
            self.messages = self._next.pop(0)
        for message in messages:
            yield message

    async def AttachGeneration(
        self, request: Any, context: Any
    ) -> AsyncIterator[g.AttachGenerationResponse]:
        last = self.messages[max(0, request.after_sequence - 1)]
        if request.numbering not in (0, last.numbering):
            raise GenerationNotFound("other numbers here", field="numbering")
        for message in self.messages[request.after_sequence :]:
            yield g.AttachGenerationResponse(message=message)

    async def Complete(self, request: Any, context: Any) -> g.CompleteResponse:
        self.requests.append(request.generation)
        return joined(self.messages)


def joined(messages: Sequence[g.GenerateResponse]) -> g.CompleteResponse:
    """The whole response of a stream."""
    outputs = Outputs()
    for message in messages:
        outputs.add(to_event(message))
    return outputs.as_response()


@contextmanager
def serving(servicer: ScriptedGeneration) -> Iterator[str]:
    """The address of a server of it and of a model."""
    models = FakeModels()
    versions = [m.ModelVersion(version=1, ready_replicas=1, context_tokens=2048)]
    models.models["pocket"] = m.Model(name="pocket", versions=versions)
    with serving_on_a_thread(servicer, models) as address:
        yield address


@contextmanager
def serving_on_a_thread(
    generation: FakeGeneration,
    models: FakeModels,
    *others: tuple[Callable[..., None], object],
    names: Sequence[str] = (),
) -> Iterator[str]:
    """The address of a server that runs on a thread of its own until the context ends.

    others: the function that adds another servicer to a server, and the servicer.
    names: the services whose requests are checked too.
    """
    address, loop = list[str](), asyncio.new_event_loop()
    stop, ready = asyncio.Event(), threading.Event()

    async def serve() -> None:
        server = MeshServer(
            services=[
                (add_GenerationServiceServicer_to_server, generation),
                (add_ModelServiceServicer_to_server, models),
                *others,
            ],
            service_names=[GENERATION, MODEL, *names],
        )
        address.append(await server.start())
        await server.set_serving()
        ready.set()
        await stop.wait()
        await server.drain(grace_s=0, settle_s=0)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
