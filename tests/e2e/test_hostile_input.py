"""Two thousand hostile requests: each gets a clear status, not to be retried, and nothing dies."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import (
    ChatInput,
    ChatMessage,
    CompleteRequest,
    CountTokensRequest,
    GenerateRequest,
    TokenInput,
)
from mlxmesh.model.v1 import artifact_pb2, model_pb2
from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import (
    ConstraintInvalid,
    ContextTooLong,
    ExperimentNotFound,
    FeatureNotSupported,
    InvalidArgument,
    MalformedMessage,
    ModelNotFound,
    OutcomeNotFound,
    ProfileNotFound,
)
from tests.e2e import hostile_jobs, hostile_live, hostile_routing
from tests.e2e.hostile_hub import bad_hub
from tests.e2e.hostile_jobs import bad_jobs
from tests.e2e.hostile_live import bad_live
from tests.e2e.hostile_routing import BAD_MODELS, INFINITY, MODELS, NAN, bad_routing
from tests.e2e.running_mesh import RunningMesh

COUNT = 2000
GENERATION = "/mlxmesh.generation.v1.GenerationService"
GENERATE = f"{GENERATION}/Generate"
COMPLETE = f"{GENERATION}/Complete"
COUNT_TOKENS = f"{GENERATION}/CountTokens"
ARTIFACTS = "/mlxmesh.model.v1.ArtifactService"
STREAMING = {
    GENERATE,
    f"{MODELS}/PullModel",
    f"{MODELS}/ImportModel",
    f"{MODELS}/LoadModel",
    f"{ARTIFACTS}/VerifyArtifacts",
    *hostile_jobs.STREAMING,
    *hostile_live.STREAMING,
    *hostile_routing.STREAMING,
}
# None of them takes an empty message, so that no raw bytes are legal by chance.
RAW_METHODS = (
    GENERATE,
    COMPLETE,
    COUNT_TOKENS,
    *(
        f"{MODELS}/{name}"
        for name in ("PullModel", "ImportModel", "RegisterModel", "GetModel", "LoadModel")
    ),
)
# What a caller must not repeat: a retry would be as hopeless as the first try.
HOPELESS = {
    cls.reason: cls.code
    for cls in (
        ConstraintInvalid, ContextTooLong, FeatureNotSupported, InvalidArgument, MalformedMessage,
        ModelNotFound, ProfileNotFound,
        ExperimentNotFound, OutcomeNotFound,
    )
}  # fmt: skip

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


def request(**fields: Any) -> GenerateRequest:
    given: dict[str, Any] = {"model": "pocket", "prompt": "Hi", "max_tokens": 2, **fields}
    return GenerateRequest(**given)


class Case(NamedTuple):
    """A call that must fail; `field` is to be blamed where the bytes are a message."""

    method: str
    field: str
    wire: bytes


def typed_cases() -> Iterator[Case]:
    """Messages that parse but are illegal, for every kind of method."""
    for field, message in bad_generations():
        yield Case(GENERATE, field, message.SerializeToString())
        whole = CompleteRequest(generation=message)
        yield Case(COMPLETE, field, whole.SerializeToString())
    for method, field, message in (
        *bad_counts_and_models(),
        *bad_routing(),
        *bad_jobs(),
        *bad_live(),
        *bad_hub(),
    ):
        yield Case(method, field, message.SerializeToString())


def bad_generations() -> Iterator[tuple[str, GenerateRequest]]:
    for field, sampling in BAD_SAMPLING:
        yield field, request(sampling=sampling)
    for model in BAD_MODELS:
        yield "model", request(model=model)
    yield "prompt", request(prompt="")
    yield "input", GenerateRequest(model="pocket")
    yield "prompt", request(prompt="word " * 200_000)
    yield "max_tokens", request(max_tokens=0)
    yield "max_tokens", request(max_tokens=999_999)
    yield "max_tokens", request(max_tokens=2**32 - 1)
    yield "stop", request(stop=[""])
    yield "stop", request(stop=["x"] * 1000)
    yield "stop_token_ids", request(stop_token_ids=[2**32 - 1])
    yield "json_schema", request(json_schema="{")
    yield "json_schema", request(json_schema='{"not": {}}')
    yield "regex", request(regex="(")
    yield "grammar", request(grammar="start: missing")
    yield "choice", request(choice={"texts": []})
    yield "logprobs", request(logprobs={"top": 21})
    yield "tools", request(tools=[{"name": "f"}])
    yield "tool_choice", request(tool_choice={"mode": "TOOL_MODE_REQUIRED"})
    yield "reasoning", request(reasoning={"enabled": True})
    yield "labels", request(labels={"A b": "c"})
    yield "priority", request(priority=101)
    yield "session_id", request(session_id="s s")
    yield "adapter", request(adapter="../x")
    yield "n", request(n=33)
    yield "request_id", request(request_id="a b")
    yield "tokens", token_request([2**31])
    yield "tokens", token_request([])
    yield "chat", chat_request(ChatInput())
    yield "chat", chat_request(ChatInput(messages=[ChatMessage(content="x")]))


def bad_counts_and_models() -> Iterator[tuple[str, str, Message]]:
    for model in BAD_MODELS:
        yield COUNT_TOKENS, "model", CountTokensRequest(model=model, prompt="Hi")
        yield f"{MODELS}/GetModel", "model", model_pb2.GetModelRequest(model=model)
        yield f"{MODELS}/DeleteModel", "model", model_pb2.DeleteModelRequest(model=model)
        yield f"{MODELS}/LoadModel", "model", model_pb2.LoadModelRequest(model=model)
        yield f"{MODELS}/UnloadModel", "model", model_pb2.UnloadModelRequest(model=model)
        if model:  # empty: every model
            verify = artifact_pb2.VerifyArtifactsRequest(model=model)
            yield f"{ARTIFACTS}/VerifyArtifacts", "model", verify
    yield COUNT_TOKENS, "input", CountTokensRequest(model="pocket")
    yield COUNT_TOKENS, "chat", CountTokensRequest(model="pocket", chat=ChatInput())
    yield f"{MODELS}/LoadModel", "replicas", model_pb2.LoadModelRequest(model="pocket", replicas=65)
    yield f"{MODELS}/ListModels", "page_size", model_pb2.ListModelsRequest(page_size=-1)
    yield f"{MODELS}/ListModels", "page_token", model_pb2.ListModelsRequest(page_token="\x00")
    for size in (-1, 1001):
        listing = artifact_pb2.ListArtifactsRequest(page_size=size)
        yield f"{ARTIFACTS}/ListArtifacts", "page_size", listing
    for token in ("\x00", "x" * 300):
        listing = artifact_pb2.ListArtifactsRequest(page_token=token)
        yield f"{ARTIFACTS}/ListArtifacts", "page_token", listing
    prune = artifact_pb2.PruneArtifactsRequest(unfinished_after_s=2**32 - 1)
    yield f"{ARTIFACTS}/PruneArtifacts", "unfinished_after_s", prune
    for repo_id in ("", "pocket", "../../etc", "a/b/c", "a/b?x"):
        yield f"{MODELS}/PullModel", "repo_id", model_pb2.PullModelRequest(repo_id=repo_id)
    for file in ("x.bin", "../x.gguf", "a/x.gguf", ".gguf"):
        yield f"{MODELS}/PullModel", "file", model_pb2.PullModelRequest(repo_id="a/b", file=file)
    yield f"{MODELS}/PullModel", "dtype", model_pb2.PullModelRequest(repo_id="a/b", dtype="int4")
    for file in ("", "relative.gguf", "/no/such.gguf", "/etc", "/dev/zero", "x" * 5000, "/\x00"):
        importing = model_pb2.ImportModelRequest(name="hostile", file=file)
        yield f"{MODELS}/ImportModel", "file", importing
    for directory in ("", "relative", "/no/such/directory", "/etc", "x" * 5000, "/\x00"):
        register = model_pb2.RegisterModelRequest(name="hostile", directory=directory)
        yield f"{MODELS}/RegisterModel", "directory", register


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


def cases() -> list[Case]:
    generator = random.Random(7)
    typed, raw = list(typed_cases()), raw_cases(generator)
    half = COUNT // 2
    mixed = [typed[i % len(typed)] for i in range(half)]
    mixed += [Case(RAW_METHODS[i % len(RAW_METHODS)], "", next(raw)) for i in range(half)]
    generator.shuffle(mixed)
    return mixed


async def outcome(channel: grpc.aio.Channel, case: Case) -> grpc.aio.AioRpcError:
    """The status that a case gets."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer(channel, case)
    return caught.value


async def answer(channel: grpc.aio.Channel, case: Case) -> None:
    if case.method in STREAMING:
        async for _ in channel.unary_stream(case.method)(case.wire, timeout=30):
            pass
    else:
        await channel.unary_unary(case.method)(case.wire, timeout=30)


def reason_and_fields(error: grpc.aio.AioRpcError) -> tuple[str, list[str]]:
    """Why, and which fields are to blame; from a status with one ErrorInfo and no RetryInfo."""
    status = rpc_status.from_call(cast("grpc.Call", error))
    assert status is not None, error
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    infos = [detail for detail in status.details if detail.Unpack(info)]
    assert len(infos) == 1, error
    assert not any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    for detail in status.details:
        detail.Unpack(bad)
    return info.reason, [violation.field for violation in bad.field_violations]


def check(case: Case, error: grpc.aio.AioRpcError) -> None:
    reason, fields = reason_and_fields(error)
    assert HOPELESS.get(reason) is error.code(), (case, error)
    if case.field:
        # Of the generation that a CompleteRequest holds, or of the request itself.
        plain = [name.removeprefix("generation.") for name in fields]
        assert any(name.startswith(case.field) for name in plain), (case, fields, error)


def test_there_are_cases_of_every_kind() -> None:
    assert len(cases()) == COUNT
    assert set(cases()) >= set(typed_cases())
    unnamed = {*RAW_METHODS, hostile_jobs.TRANSLATE}  # a text that is no JSON has no fields
    assert {case.method for case in cases() if not case.field} == unnamed


async def test_every_request_gets_a_clear_status_and_nothing_dies(mesh: RunningMesh) -> None:
    submit = ("jobs", "submit", "Hi", "--max-tokens", "1", "--wait")
    started = await asyncio.to_thread(mesh.command, *submit)
    assert started.returncode == 0, started.stderr
    pids = {row["instance_id"]: row["pid"] for row in mesh.status()["instances"]}
    async with MeshClient(mesh.address) as client:
        models = await client.list_models()
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        for case in cases():
            check(case, await outcome(channel, case))
    assert {row["instance_id"]: row["pid"] for row in mesh.status()["instances"]} == pids
    async with MeshClient(mesh.address) as client:
        assert await client.list_models() == models
        assert (await client.complete("pocket", prompt="Hi", max_tokens=2)).token_ids
