"""A thousand hostile requests: each gets a clear status, not to be retried, and nothing dies."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import (
    ChatInput,
    ChatMessage,
    GenerateRequest,
    TokenInput,
)
from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh

COUNT = 1000
GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
CLEAR = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
NAN, INFINITY = float("nan"), float("inf")

BAD_SAMPLING: list[tuple[str, Sampling]] = [
    ("sampling.temperature", Sampling(temperature=-1)),
    ("sampling.temperature", Sampling(temperature=NAN)),
    ("sampling.temperature", Sampling(temperature=INFINITY)),
    ("sampling.top_p", Sampling(top_p=0)),
    ("sampling.top_p", Sampling(top_p=1.5)),
    ("sampling.top_p", Sampling(top_p=NAN)),
    ("sampling.top_k", Sampling(top_k=2**31)),
    ("sampling.min_p", Sampling(min_p=-0.1)),
    ("sampling.repetition_penalty", Sampling(repetition_penalty=0)),
    ("sampling.presence_penalty", Sampling(presence_penalty=3)),
    ("sampling.frequency_penalty", Sampling(frequency_penalty=-3)),
    ("sampling.logit_bias", Sampling(logit_bias={4_000_000_000: 1.0})),
    ("sampling.logit_bias", Sampling(logit_bias={1: INFINITY})),
]
BAD_MODELS = [
    "",
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "a/b",
    "pocket\x00",
    "pocket@0",
    "pocket@-1",
    "pocket:",
    "x" * 5000,
    "no-such-model",
    "pocket@99",
    "pocket:no-such-alias",
    "pocket; rm -rf /",
]


def request(**fields: Any) -> GenerateRequest:
    given: dict[str, Any] = {"model": "pocket", "prompt": "Hi", "max_tokens": 2, **fields}
    return GenerateRequest(**given)


def typed_cases() -> Iterator[tuple[str, bytes]]:
    """(field to blame, wire bytes) of messages that parse but are illegal."""
    for field, sampling in BAD_SAMPLING:
        yield field, request(sampling=sampling).SerializeToString()
    for model in BAD_MODELS:
        yield "model", request(model=model).SerializeToString()
    yield "prompt", request(prompt="").SerializeToString()
    yield "input", GenerateRequest(model="pocket").SerializeToString()
    yield "prompt", request(prompt="word " * 200_000).SerializeToString()
    yield "max_tokens", request(max_tokens=0).SerializeToString()
    yield "max_tokens", request(max_tokens=999_999).SerializeToString()
    yield "max_tokens", request(max_tokens=2**32 - 1).SerializeToString()
    yield "stop", request(stop=[""]).SerializeToString()
    yield "stop", request(stop=["x"] * 1000).SerializeToString()
    yield "stop_token_ids", request(stop_token_ids=[2**32 - 1]).SerializeToString()
    yield "json_schema", request(json_schema="{}").SerializeToString()
    yield "priority", request(priority=5).SerializeToString()
    yield "adapter", request(adapter="x").SerializeToString()
    yield "n", request(n=2).SerializeToString()
    yield "request_id", request(request_id="a b").SerializeToString()
    yield "tokens", token_request([2**31]).SerializeToString()
    yield "tokens", token_request([]).SerializeToString()
    yield "chat", chat_request(ChatInput()).SerializeToString()
    nobody = ChatMessage(content="x")
    yield "chat", chat_request(ChatInput(messages=[nobody])).SerializeToString()


def token_request(ids: list[int]) -> GenerateRequest:
    return GenerateRequest(model="pocket", tokens=TokenInput(token_ids=ids))


def chat_request(chat: ChatInput) -> GenerateRequest:
    return GenerateRequest(model="pocket", chat=chat)


def raw_cases(generator: random.Random) -> Iterator[bytes]:
    """Wire bytes that are no message, or not what the field's type says."""
    good = request().SerializeToString()
    while True:
        # Invalid UTF-8 in `model`; a number where text belongs; text where a number belongs.
        yield b"\x0a\x04" + bytes(generator.choices(range(0x80, 0x100), k=4)) + good[8:]
        yield b"\x08" + bytes([generator.randrange(128)]) + b"\x12\x02\xff\xfe"
        yield b"\x2a" + struct.pack("B", 2) + b"hi" + b"\x12\x01\xc3"
        # A cut message, with its last field's length beyond the end; random bytes.
        yield good + b"\x12" + bytes([generator.randrange(1, 128)])
        yield b"\x0b" + generator.randbytes(generator.randrange(1, 200))


def cases() -> list[tuple[str, bytes]]:
    generator = random.Random(7)
    typed = list(typed_cases())
    raw = raw_cases(generator)
    mixed = [(("", next(raw)) if i % 2 else typed[i // 2 % len(typed)]) for i in range(COUNT)]
    generator.shuffle(mixed)
    return mixed


async def outcome(channel: grpc.aio.Channel, wire: bytes) -> grpc.aio.AioRpcError:
    """The status that the bytes get."""
    call = channel.unary_stream(GENERATE)(wire, timeout=30)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value


def blamed_fields(error: grpc.aio.AioRpcError) -> list[str]:
    """The fields that the status names, and proof that it carries exactly one ErrorInfo."""
    status = rpc_status.from_call(cast("grpc.Call", error))
    assert status is not None, error
    fields: list[str] = []
    infos = 0
    for detail in status.details:
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            fields += [violation.field for violation in bad.field_violations]
        infos += detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)
        assert not detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR), error
    assert infos == 1
    return fields


async def test_every_request_gets_a_clear_status_and_nothing_dies(mesh: RunningMesh) -> None:
    pids = {row["instance_id"]: row["pid"] for row in mesh.status()["instances"]}
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        for field, wire in cases():
            error = await outcome(channel, wire)
            assert error.code() in CLEAR, (field, error)
            if field:
                fields = blamed_fields(error)
                assert any(name.startswith(field) for name in fields), (field, fields, error)
    assert {row["instance_id"]: row["pid"] for row in mesh.status()["instances"]} == pids
    async with MeshClient(mesh.address) as client:
        assert (await client.complete("pocket", prompt="Hi", max_tokens=2)).token_ids
