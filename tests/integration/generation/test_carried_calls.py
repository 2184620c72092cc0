"""Streams that a relay carries: each is a call of its own, and none disturbs another."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_generation.relay.servicer import RELAY
from mlxmesh_shared.errors import Draining, InvalidArgument, MalformedMessage
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.waiting import until
from tests.integration.generation.harness import Mesh, running_mesh

STREAMS = 32
CREDIT = 1024


def request(max_tokens: int = 20, **fields: Any) -> g.GenerateRequest:
    sampling = fields.pop("sampling", {"seed": 1})
    return g.GenerateRequest(
        model="pocket", prompt="x", max_tokens=max_tokens, sampling=sampling, **fields
    )


def opening(stream_id: int, asked: g.GenerateRequest | bytes, **fields: Any) -> g.OpenStream:
    encoded = asked if isinstance(asked, bytes) else asked.SerializeToString()
    return g.OpenStream(**{"stream_id": stream_id, "generate": encoded, "credit": CREDIT, **fields})


def text_of(messages: list[g.GenerateResponse]) -> str:
    return "".join(message.delta.text for message in messages)


def tokens_of(messages: list[g.GenerateResponse]) -> list[int]:
    return [token for message in messages for token in message.delta.token_ids]


class Relay:
    """One relay, read until its streams have what a test waits for."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.messages: dict[int, list[g.GenerateResponse]] = {}
        self.failures: dict[int, Failure | None] = {}
        """Of the streams that have ended; None for those that ended well."""
        self.responses = 0

    async def send(self, **commands: Any) -> None:
        await self.call.write(g.RelayRequest(**commands).SerializeToString())

    async def open(self, *openings: g.OpenStream) -> None:
        await self.send(open=openings)

    async def read(self) -> bool:
        """Reads one response; False at the end of the relay."""
        encoded = await self.call.read()
        if encoded is aio.EOF:
            return False
        self.responses += 1
        outputs = g.RelayResponse.FromString(encoded).outputs
        assert len({output.stream_id for output in outputs}) == len(outputs)
        for output in outputs:
            if output.message:
                message = g.GenerateResponse.FromString(output.message)
                self.messages.setdefault(output.stream_id, []).append(message)
            if output.ended:
                failure = output.failure if output.HasField("failure") else None
                self.failures[output.stream_id] = failure
        return True

    async def read_all(self) -> None:
        while await self.read():
            pass

    async def until_ended(self, *stream_ids: int) -> None:
        while not set(stream_ids) <= self.failures.keys():
            assert await self.read()

    async def failure_of(self, opened: g.OpenStream) -> Failure:
        await self.open(opened)
        await self.until_ended(opened.stream_id)
        failure = self.failures[opened.stream_id]
        assert failure is not None
        return failure


@pytest.fixture
async def relay(mesh: Mesh) -> AsyncIterator[Relay]:
    async with open_channel(mesh.server.address) as channel:
        yield Relay(channel.stream_stream(RELAY)())


async def test_a_carried_stream_is_the_stream_of_a_call(mesh: Mesh, relay: Relay) -> None:
    own_call = await mesh.collect(request())
    await relay.open(opening(1, request()))
    await relay.until_ended(1)

    carried = relay.messages[1]
    assert relay.failures == {1: None}
    assert [message.sequence for message in carried] == list(range(1, len(carried) + 1))
    assert carried[0].HasField("started")
    assert carried[-1].finished.usage == own_call[-1].finished.usage
    assert (text_of(carried), tokens_of(carried)) == (text_of(own_call), tokens_of(own_call))


async def test_a_step_is_one_message_for_all_streams(relay: Relay) -> None:
    ids = range(1, STREAMS + 1)
    await relay.open(*(opening(stream_id, request(100)) for stream_id in ids))
    await relay.until_ended(*ids)

    assert all(len(tokens_of(relay.messages[stream_id])) == 100 for stream_id in ids)
    messages = sum(len(relay.messages[stream_id]) for stream_id in ids)
    assert relay.responses < messages / 4


async def test_a_silent_reader_costs_only_itself(mesh: Mesh, relay: Relay) -> None:
    alone = await mesh.collect(request(600))
    ids = range(1, STREAMS + 1)
    silent = opening(1, request(600), credit=3)
    await relay.open(silent, *(opening(each, request(600)) for each in ids[1:]))
    await relay.until_ended(*ids[1:])

    assert all(tokens_of(relay.messages[each]) == tokens_of(alone) for each in ids[1:])
    assert len(relay.messages[1]) == 3
    # What waited for it has joined, and none of it is lost.
    await relay.send(credit=[g.StreamCredit(stream_id=1, messages=CREDIT)])
    await relay.until_ended(1)
    assert tokens_of(relay.messages[1]) == tokens_of(alone)
    assert len(relay.messages[1]) < 20


async def test_a_cancelled_stream_leaves_its_engine_and_says_no_more(
    mesh: Mesh, relay: Relay
) -> None:
    await relay.open(opening(1, request(900)), opening(2, request(900)))
    while len(relay.messages) < 2:
        await relay.read()
    await relay.send(cancel_stream_ids=[1, 77])
    await until(lambda: mesh.engine.sequences == 1)
    steps = mesh.engine.steps
    count = len(relay.messages[1])
    await relay.until_ended(2)

    assert steps < mesh.engine.steps
    # At most what was on its way.
    assert len(relay.messages[1]) <= count + 2
    assert 1 not in relay.failures


async def test_a_deadline_ends_its_stream_alone(mesh: Mesh, relay: Relay) -> None:
    mesh.engine.may_step.clear()
    await relay.open(opening(1, request()), opening(2, request(), timeout_ms=100))
    await relay.until_ended(2)
    failure = relay.failures[2]
    assert failure is not None
    assert (failure.code, failure.reason) == (4, "DEADLINE_EXCEEDED")
    assert mesh.engine.sequences <= 2
    mesh.engine.may_step.set()
    await relay.until_ended(1)
    assert relay.failures[1] is None


async def test_a_failure_has_the_details_of_a_status(relay: Relay) -> None:
    unknown = await relay.failure_of(opening(1, g.GenerateRequest(model="unknown", prompt="x")))
    assert (unknown.code, unknown.reason, unknown.field) == (5, "MODEL_NOT_FOUND", "model")
    illegal = await relay.failure_of(opening(2, request(sampling={"temperature": -1})))
    assert (illegal.code, illegal.reason) == (3, "INVALID_FIELD")
    assert illegal.field == "sampling.temperature"
    malformed = await relay.failure_of(opening(3, b"\xff\xff\xff"))
    assert (malformed.code, malformed.reason) == (3, "MALFORMED_MESSAGE")
    # The relay has survived all of them.
    await relay.open(opening(4, request()))
    await relay.until_ended(4)
    assert relay.failures[4] is None


async def test_each_stream_counts_for_its_caller(tmp_path: Path, tokenizer_dir: Path) -> None:
    settings = {"max_concurrent_rpcs": 2}
    async with (
        running_mesh(tmp_path, tokenizer_dir, settings=settings) as mesh,
        open_channel(mesh.server.address) as channel,
    ):
        relay = Relay(channel.stream_stream(RELAY)())
        mesh.engine.may_step.clear()
        await relay.open(
            *(opening(each, request(), metadata={"mlxmesh-caller": "a"}) for each in (1, 2))
        )
        await until(lambda: mesh.engine.sequences == 2)
        refusal = await relay.failure_of(opening(3, request(), metadata={"mlxmesh-caller": "a"}))
        assert (refusal.code, refusal.reason) == (8, "TOO_MANY_REQUESTS")
        assert refusal.retry_delay_ms > 0
        mesh.engine.may_step.set()
        await relay.until_ended(1, 2)
        await relay.open(opening(4, request()))
        await relay.until_ended(4)
        assert relay.failures[4] is None


async def test_an_illegal_name_of_a_caller_fails_its_stream(relay: Relay) -> None:
    failure = await relay.failure_of(opening(1, request(), metadata={"mlxmesh-caller": "?"}))
    assert (failure.code, failure.field) == (3, "mlxmesh-caller")


async def test_a_generation_belongs_to_the_owner_of_its_stream(relay: Relay) -> None:
    mine, other = {"mlxmesh-owner": "#me"}, {"mlxmesh-owner": "#other"}
    await relay.open(opening(1, request(request_id="id"), metadata=mine))
    await relay.until_ended(1)
    attach = g.AttachGenerationRequest(request_id="id", after_sequence=1).SerializeToString()
    refused = await relay.failure_of(
        g.OpenStream(stream_id=2, attach=attach, credit=CREDIT, metadata=other)
    )
    assert (refused.code, refused.reason) == (5, "GENERATION_NOT_FOUND")
    await relay.open(g.OpenStream(stream_id=3, attach=attach, credit=CREDIT, metadata=mine))
    await relay.until_ended(3)
    assert relay.failures[3] is None


async def test_a_generation_is_resumed_on_a_relay(mesh: Mesh, relay: Relay) -> None:
    whole = await mesh.collect(request(20))
    known = tokens_of(whole)[:5]
    asked = request(20)
    asked.model, asked.request_id = "pocket@1", "gen-0123456789abcdef"
    asked.sampling.seed = whole[0].started.seed
    resume = g.ResumeGenerationRequest(
        generation=asked,
        outputs=[g.ReceivedOutput(token_ids=known, text_characters=len(text_of(whole[:6])))],
        after_sequence=6,
    )
    await relay.open(g.OpenStream(stream_id=1, resume=resume.SerializeToString(), credit=CREDIT))
    # ResumeGenerationResponse has its message in field 1, which is a number in GenerateResponse.
    encoded: list[bytes] = []
    while True:
        [output] = g.RelayResponse.FromString(await relay.call.read()).outputs
        encoded += [output.message] if output.message else []
        if output.ended:
            break
    rest = [g.ResumeGenerationResponse.FromString(each).message for each in encoded]
    assert rest[0].sequence == 7
    assert [*known, *tokens_of(rest)] == tokens_of(whole)


async def test_the_end_of_a_relay_cancels_its_streams(mesh: Mesh, relay: Relay) -> None:
    await relay.open(opening(1, request(900)), opening(2, request(900)))
    await until(lambda: mesh.engine.sequences == 2)
    relay.call.cancel()
    await until(lambda: mesh.engine.sequences == 0)


async def test_a_relay_that_is_half_closed_ends_after_its_streams(relay: Relay) -> None:
    await relay.open(opening(1, request()))
    await relay.call.done_writing()
    await relay.read_all()
    assert relay.failures == {1: None}


async def test_a_drain_refuses_streams_and_finishes_those_that_run(
    mesh: Mesh, relay: Relay
) -> None:
    mesh.engine.may_step.clear()
    await relay.open(opening(1, request()))
    await until(lambda: mesh.engine.sequences == 1)
    draining = asyncio.create_task(mesh.server.drain(grace_s=10, settle_s=0))
    await asyncio.sleep(0.05)
    refused = await relay.failure_of(opening(2, request()))
    assert (refused.code, refused.reason) == (14, "DRAINING")
    mesh.engine.may_step.set()
    with pytest.raises(Draining):
        await relay.read_all()
    assert relay.failures[1] is None
    await draining


async def test_a_drain_ends_an_idle_relay_at_once(mesh: Mesh, relay: Relay) -> None:
    await relay.open(opening(1, request()))
    await relay.until_ended(1)
    async with asyncio.timeout(30):
        await mesh.server.drain(grace_s=60, settle_s=0)
    with pytest.raises(Draining):
        await relay.read()


async def test_streams_that_outlive_a_drain_are_told_so(mesh: Mesh, relay: Relay) -> None:
    mesh.engine.may_step.clear()
    await relay.open(opening(1, request()))
    await until(lambda: mesh.engine.sequences == 1)
    await mesh.server.drain(grace_s=0, settle_s=0)
    with pytest.raises(Draining):
        await relay.read_all()


ILLEGAL: dict[str, tuple[g.RelayRequest, str]] = {
    "no id": (g.RelayRequest(open=[opening(0, request())]), "open[0].stream_id"),
    "no request": (
        g.RelayRequest(open=[g.OpenStream(stream_id=1, credit=1)]),
        "open[0].request",
    ),
    "large request": (
        g.RelayRequest(open=[opening(1, b"x" * 65_537)]),
        "open[0].generate",
    ),
    "no credit": (g.RelayRequest(open=[opening(1, request(), credit=0)]), "open[0].credit"),
    "much credit": (g.RelayRequest(open=[opening(1, request(), credit=1025)]), "open[0].credit"),
    "no time": (
        g.RelayRequest(open=[opening(1, request(), timeout_ms=0)]),
        "open[0].timeout_ms",
    ),
    "a key in upper case": (
        g.RelayRequest(open=[opening(1, request(), metadata={"Caller": "a"})]),
        "open[0].metadata",
    ),
    "a long value": (
        g.RelayRequest(open=[opening(1, request(), metadata={"a": "x" * 16_385})]),
        "open[0].metadata",
    ),
    "much metadata": (
        g.RelayRequest(open=[opening(1, request(), metadata={f"a{n}": "" for n in range(17)})]),
        "open[0].metadata",
    ),
    "credit for no stream": (
        g.RelayRequest(credit=[g.StreamCredit(stream_id=0, messages=1)]),
        "credit[0].stream_id",
    ),
    "credit of nothing": (
        g.RelayRequest(credit=[g.StreamCredit(stream_id=1, messages=0)]),
        "credit[0].messages",
    ),
    "too much credit": (
        g.RelayRequest(credit=[g.StreamCredit(stream_id=1, messages=1025)]),
        "credit[0].messages",
    ),
    "cancel no stream": (g.RelayRequest(cancel_stream_ids=[0]), "cancel_stream_ids[0]"),
    "too many to open": (
        g.RelayRequest(open=[opening(n, b"") for n in range(1, 1026)]),
        "open",
    ),
    "too many to cancel": (
        g.RelayRequest(cancel_stream_ids=range(1, 4098)),
        "cancel_stream_ids",
    ),
    "ids that do not grow": (
        g.RelayRequest(open=[opening(2, request()), opening(2, request())]),
        "open.stream_id",
    ),
}


@pytest.mark.parametrize("what", ILLEGAL)
async def test_an_illegal_message_ends_the_relay_and_names_its_field(
    mesh: Mesh, relay: Relay, what: str
) -> None:
    message, field = ILLEGAL[what]
    await relay.call.write(message.SerializeToString())
    with pytest.raises(InvalidArgument) as caught:
        await relay.read_all()
    assert caught.value.field.startswith(field)
    await until(lambda: mesh.engine.sequences == 0)


@pytest.mark.parametrize("encoded", [b"\xff\xff\xff", b"\x0a\x05ab", b"\x08"])
async def test_a_malformed_message_ends_the_relay(mesh: Mesh, relay: Relay, encoded: bytes) -> None:
    await relay.open(opening(1, request(900)))
    await until(lambda: mesh.engine.sequences == 1)
    await relay.call.write(encoded)
    with pytest.raises(MalformedMessage):
        await relay.read_all()
    await until(lambda: mesh.engine.sequences == 0)
