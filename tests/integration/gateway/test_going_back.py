"""A stream that went from one instance to another, and is read through another gateway after."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_client import GenerationNotFound
from mlxmesh_gateway.openai.responses.ids import new_response_id
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.registry import OFFERS_RELAY, Instance
from mlxmesh_shared.rpc.channels import open_channel
from tests.chaos.proxy import Proxy
from tests.fakes import tokenizer_files
from tests.fakes.engine import FakeEngine, FakeEngineOptions
from tests.fakes.model_service import FakeModelService
from tests.fakes.waiting import until
from tests.integration.generation.harness import generation_service, pocket

from .conftest import Stand

REQUEST = g.GenerateRequest(
    model="pocket",
    prompt="x",
    max_tokens=400,
    sampling=Sampling(seed=3, temperature=1),
)
BEFORE = 10
"""Messages from the first instance."""
FAST: Mapping[str, Any] = {"step_s": 0.001, "tokens_per_step": 20}
SLOW: Mapping[str, Any] = {"step_s": 0.02, "tokens_per_step": 1}
"""So that each token has a message while the stream is read."""


class Instances:
    """Generation instances with one engine, each behind a link that can be cut."""

    def __init__(self, stack: AsyncExitStack, stand: Stand) -> None:
        self.engine = FakeEngine(FakeEngineOptions(**FAST))
        self.links: list[Proxy] = []
        self.stubs: list[GenerationServiceStub] = []
        """Past the links."""
        self.registered: list[Instance] = []
        self._stack, self._stand = stack, stand

    async def start(self, folder: Path, count: int = 2) -> None:
        models, stack, registry = FakeModelService(), self._stack, self._stand.registry
        models.put(pocket(), tokenizer_files.byte_level(folder / "tokenizer"))
        await stack.enter_async_context(models.running())
        await stack.enter_async_context(self.engine.running())
        await registry.register(models.instance)
        await registry.register(self.engine.instance)
        metadata = {OFFERS_RELAY: "1"} if self._stand.relays else {}
        for name in (f"generation-{number}" for number in range(1, count + 1)):
            server = await stack.enter_async_context(generation_service(registry, folder / name))
            link = await stack.enter_async_context(Proxy(server.address))
            self.links.append(link)
            channel = await stack.enter_async_context(
                open_channel(server.address, role="generation")
            )
            self.stubs.append(GenerationServiceStub(channel))
            instance = Instance("generation", name, link.address, pid=1, metadata=metadata)
            await registry.register(instance)
            self.registered.append(instance)

    def pace(self, pace: Mapping[str, Any]) -> None:
        """Sets the pace of the engine."""
        for name, value in pace.items():
            setattr(self.engine.options, name, value)

    async def cut_off(self, number: int) -> None:
        """Cuts one off until its stream has moved, before anybody has read more of that."""
        submits = len(self.engine.submits)
        self.engine.may_step.clear()
        self.links[number].black_hole()
        self.links[number].reset()
        await until(lambda: len(self.engine.submits) > submits, 30)
        # Unlike those of messages that it had sent and that never arrived.
        self.pace({"tokens_per_step": 3})
        self.engine.may_step.set()

    async def holder(self, request_id: str) -> int:
        """Which of them has the generation; after moves, the one that it moved to last."""
        takeovers: dict[int, int] = {}
        for number, stub in enumerate(self.stubs):
            with suppress(GenerationNotFound):
                found = await stub.GetGeneration(g.GetGenerationRequest(request_id=request_id))
                takeovers[number] = found.takeover
        return max(takeovers, key=lambda number: takeovers[number])


@pytest.fixture
async def instances(stand: Stand, tmp_path: Path) -> AsyncIterator[Instances]:
    async with AsyncExitStack() as stack:
        started = Instances(stack, stand)
        await started.start(tmp_path)
        yield started


def tokens_of(messages: Sequence[g.GenerateResponse]) -> list[int]:
    return [token for message in messages for token in message.delta.token_ids]


def request(request_id: str) -> g.GenerateRequest:
    own = g.GenerateRequest()
    own.CopyFrom(REQUEST)
    own.request_id = request_id
    return own


async def moved(instances: Instances, stub: GenerationServiceStub) -> list[g.GenerateResponse]:
    """The messages of a stream up to the first one of the other instance; the first instance has
    made more meanwhile, and its link is cut no more.
    """
    instances.pace(SLOW)
    call: Any = stub.Generate(request("mine"))
    had = [await call.read() for _ in range(BEFORE)]
    first = await instances.holder("mine")
    await instances.cut_off(first)
    while had[-1].numbering == had[0].numbering:
        had.append(await call.read())
    instances.links[first].heal()
    call.cancel()
    instances.pace(FAST)
    return had


async def test_a_reader_goes_on_at_the_right_token_through_another_gateway(
    stand: Stand, instances: Instances
) -> None:
    stub = GenerationServiceStub(await stand.channel(await stand.gateway()))
    whole = [message async for message in stub.Generate(REQUEST)]
    had = await moved(instances, stub)
    # A gateway that has cut off neither instance asks the first one first.
    client = await stand.client(await stand.gateway())
    last = had[-1]
    rest = client.attach("mine", after_sequence=last.sequence, numbering=last.numbering)
    events = [event async for event in rest]
    assert [event.sequence for event in events][:1] == [last.sequence + 1]
    assert tokens_of(had) + [t for event in events for t in event.token_ids] == tokens_of(whole)


async def test_an_instance_with_other_numbers_is_passed_over(
    stand: Stand, instances: Instances
) -> None:
    stub = GenerationServiceStub(await stand.channel(await stand.gateway()))
    whole = [message async for message in stub.Generate(REQUEST)]
    had = await moved(instances, stub)
    last = had[-1]
    asked = g.AttachGenerationRequest(request_id="mine", after_sequence=last.sequence)

    # What callers get that do not say who numbered their messages.
    found = [await told(instances.stubs[number], asked) for number in (0, 1)]
    right = tokens_of(whole)[len(tokens_of(had)) :]
    assert sorted(each == right for each in found) == [False, True]

    asked.numbering = last.numbering
    told_now = [await told(instances.stubs[number], asked) for number in (0, 1)]
    wrong = found.index(next(each for each in found if each != right))
    assert told_now[wrong] == "numbering"
    assert told_now[1 - wrong] == right


async def told(stub: GenerationServiceStub, asked: g.AttachGenerationRequest) -> list[int] | str:
    """The tokens that follow at an instance, or the field that it refuses."""
    try:
        return tokens_of([answer.message async for answer in stub.AttachGeneration(asked)])
    except GenerationNotFound as error:
        return error.field
    except MeshError as error:
        return error.reason


# Responses, whose readers may name an event by its number alone.


class Event(NamedTuple):
    """One event of a response."""

    id: str
    number: int
    delta: str

    @property
    def numbering(self) -> str:
        return self.id.partition("@")[2]


async def events_of(lines: AsyncIterator[str]) -> AsyncIterator[Event]:
    data: dict[str, Any] = {}
    async for line in lines:
        if line.startswith("data: "):
            data = json.loads(line.removeprefix("data: "))
        elif line.startswith("id: "):
            delta = data["delta"] if data["type"] == "response.output_text.delta" else ""
            yield Event(line.removeprefix("id: "), data["sequence_number"], delta)


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.delta for event in events)


ASKED = {"model": "pocket", "input": "x", "max_output_tokens": 400, "seed": 3, "stream": True}
KEY = {"idempotency-key": "mine"}


class Client:
    """Reads responses by the HTTP port of one gateway."""

    def __init__(self, http: httpx2.AsyncClient, address: str) -> None:
        self._http = http
        self._url = f"http://{address}/v1/responses"

    @asynccontextmanager
    async def created(self, **headers: str) -> AsyncIterator[AsyncIterator[Event]]:
        async with self._http.stream("POST", self._url, json=ASKED, headers=headers) as response:
            yield events_of(response.aiter_lines())

    async def created_events(self, **headers: str) -> list[Event]:
        async with self.created(**headers) as events:
            return [event async for event in events]

    async def retrieved_events(self, response_id: str, after: str) -> list[Event]:
        url = f"{self._url}/{response_id}?stream=true&starting_after={after}"
        async with self._http.stream("GET", url) as response:
            return [event async for event in events_of(response.aiter_lines())]

    async def refused(self, after: str) -> dict[str, Any]:
        url = f"{self._url}/{new_response_id(KEY)}?stream=true&starting_after={after}"
        response = await self._http.get(url)
        assert response.status_code in (400, 404), response.text
        return response.json()["error"]


@pytest.mark.parametrize("moves", [1, 2])
async def test_a_response_goes_on_after_a_number_alone(
    stand: Stand, tmp_path: Path, moves: int
) -> None:
    async with AsyncExitStack() as stack:
        instances = Instances(stack, stand)
        await instances.start(tmp_path, 3)
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=60))
        client, other = [Client(http, await stand.http(await stand.gateway())) for _ in range(2)]
        whole = text_of(await client.created_events())
        response_id = new_response_id(KEY)
        had = await moved_response(instances, client, response_id, moves)
        last = had[-1]
        found = [
            await other.retrieved_events(response_id, str(last.number)),
            await other.retrieved_events(response_id, last.id),
            await other.created_events(**KEY, **{"last-event-id": str(last.number)}),
            await other.created_events(**KEY, **{"last-event-id": last.id}),
        ]
    for rest in found:
        assert rest[0].number == last.number + 1
        assert text_of(had) + text_of(rest) == whole


async def test_a_number_that_no_instance_gave_is_refused(
    stand: Stand, instances: Instances
) -> None:
    async with httpx2.AsyncClient(timeout=60) as http:
        client, other = [Client(http, await stand.http(await stand.gateway())) for _ in range(2)]
        had = await moved_response(instances, client, new_response_id(KEY), 1, read=20)
        instances.pace(SLOW)  # so that the first instance gives as many numbers to other tokens
        newest = await instances.holder(new_response_id(KEY))
        instances.links[newest].black_hole()
        instances.links[newest].reset()
        await stand.registry.deregister(instances.registered[newest])
        by_number = await other.refused(str(had[-1].number))
        by_id = await other.refused(had[-1].id)
    assert (by_number["param"], by_id["param"]) == ("starting_after", "numbering")
    assert "send the event's id" in by_number["message"]
    assert "from its beginning" in by_id["message"]


async def moved_response(
    instances: Instances, client: Client, response_id: str, moves: int, *, read: int = 0
) -> list[Event]:
    """The events of a response up to its last move, with every instance reachable again.

    read: so many more events.
    """
    instances.pace(SLOW)
    async with client.created(**KEY) as events:
        had = [await anext(events) for _ in range(BEFORE)]
        places = [await instances.holder(response_id)]
        for _ in range(moves):
            await instances.cut_off(places[-1])
            before = had[-1].numbering
            while had[-1].numbering == before:
                had.append(await anext(events))
            instances.links[places[-1]].heal()
            places.append(await instances.holder(response_id))
        had += [await anext(events) for _ in range(read)]
    instances.pace(FAST)
    return had
