"""The Open Inference Protocol over gRPC: each request is a call of the mesh, with all its rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.inference.v2 import inference_pb2 as pb
from mlxmesh.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh_gateway.kserve.tensors import decode_bytes, encode_bytes
from mlxmesh_shared.errors import QueueFull
from tests.fakes.waiting import until

from .conftest import Stand

INFERENCE = "inference.GRPCInferenceService"


def request(
    prompt: str = "a b c", request_id: str = "", *, model: str = "pocket", **inputs: Any
) -> pb.ModelInferRequest:
    """inputs: BYTES as text or JSON, BOOL as bool."""
    message = pb.ModelInferRequest(model_name=model, id=request_id)
    for name, value in {"text_input": prompt, **inputs}.items():
        flag = isinstance(value, bool)
        message.inputs.add(name=name, datatype="BOOL" if flag else "BYTES", shape=[1])
        text = value if isinstance(value, str) else json.dumps(value)
        raw = bytes([value]) if flag else encode_bytes(text.encode())
        message.raw_input_contents.append(raw)
    return message


def text_of(response: pb.ModelInferResponse) -> str:
    return decode_bytes(response.raw_output_contents[0]).decode() if response.outputs else ""


class Served:
    """A gateway with one generation instance, and a client's stubs."""

    def __init__(self, stand: Stand, address: str, channel: grpc.aio.Channel) -> None:
        self.stand = stand
        self.address = address
        self.channel = channel
        self.stub: Any = GRPCInferenceServiceStub(channel)
        self.mesh: Any = GenerationServiceStub(channel)

    def stream(self, **options: Any) -> Any:
        return self.stub.ModelStreamInfer(**options)


async def serve(stand: Stand, **settings: Any) -> Served:
    address = await stand.gateway(**settings)
    return Served(stand, address, await stand.channel(address))


async def answers(call: Any) -> AsyncIterator[pb.ModelStreamInferResponse]:
    async with asyncio.timeout(20):
        async for response in call:
            yield response


async def ask(served: Served, *requests: pb.ModelInferRequest) -> list[Any]:
    """All that a stream answers."""
    call = served.stream()
    for each in requests:
        await call.write(each)
    await call.done_writing()
    return [response async for response in answers(call)]


async def test_one_response_for_one_request(stand: Stand) -> None:
    generation = await stand.generation()
    served = await serve(stand)
    sampling = {"max_tokens": "7", "temperature": 0.5, "seed": 3, "foo": 1}

    response = await served.stub.ModelInfer(
        request("hé", "r-7", sampling_parameters=sampling, exclude_input_in_output=True)
    )

    assert text_of(response) == "hé"  # the fake generates its prompt
    assert (response.id, response.model_name) == ("r-7", "pocket")
    assert [output.name for output in response.outputs] == ["text_output"]
    assert response.parameters["mlxmesh-ignored-fields"].string_param == "foo"
    (asked,) = generation.requests
    assert (asked.prompt, asked.max_tokens, asked.sampling.seed) == ("hé", 7, 3)


async def test_one_response_for_each_delta(stand: Stand) -> None:
    await stand.generation()
    served = await serve(stand)

    responses = await ask(served, request("a b c", "r-7", stream=True))

    assert [text_of(one.infer_response) for one in responses] == ["a ", "b ", "c "]
    for response in responses:
        assert response.infer_response.id == "r-7"
        assert response.infer_response.model_version == "1"
        assert not response.infer_response.parameters["triton_final_response"].bool_param


async def test_the_end_is_a_response_if_it_is_asked_for(stand: Stand) -> None:
    await stand.generation()
    served = await serve(stand)
    asked = request("a", stream=True)
    asked.parameters["triton_enable_empty_final_response"].bool_param = True

    _, last = await ask(served, asked)
    _, stop = await ask(served, request("a", stream=True, return_finish_reason=True))
    (whole,) = await ask(served, request("a b"))

    assert not last.infer_response.outputs
    for response in (last, stop, whole):
        assert response.infer_response.parameters["triton_final_response"].bool_param
    assert decode_bytes(stop.infer_response.raw_output_contents[1]) == b"stop"
    assert text_of(whole.infer_response) == "a ba b"


async def test_a_generation_without_output_is_a_response(stand: Stand) -> None:
    await stand.generation()
    served = await serve(stand)
    (response,) = await ask(served, request(" ", stream=True))
    assert text_of(response.infer_response) == ""
    assert response.infer_response.parameters["triton_final_response"].bool_param


async def test_a_request_that_fails_leaves_the_others_alone(stand: Stand) -> None:
    generation = await stand.generation()
    served = await serve(stand)
    bad_shape = request("a", "shape")
    bad_shape.inputs[0].shape[:] = [2**62, -1]

    async def failing(each: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
        (response,) = await ask(served, each)
        assert response.infer_response.parameters["triton_final_response"].bool_param
        return response

    assert "text_input must have the shape" in (await failing(bad_shape)).error_message
    wrong = await failing(request("a", "hot", sampling_parameters={"temperature": 11}))
    assert wrong.error_message.startswith("sampling_parameters.temperature")
    assert wrong.infer_response.id == "hot"
    empty = await failing(request("", "empty"))
    assert empty.error_message.startswith("text_input")
    generation.failures.append(QueueFull("every queue is full"))
    assert (await failing(request("a", "full"))).error_message == "every queue is full"

    responses = await ask(served, bad_shape, request("a b", "good", stream=True), bad_shape)
    good = [one for one in responses if one.infer_response.id == "good"]
    assert [text_of(one.infer_response) for one in good] == ["a ", "b "]
    assert len(responses) == 4


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({"image": "x"}, "image"),
        ({"stream": "x"}, "stream"),
        ({"stream": True}, "stream"),
        ({"sampling_parameters": "{"}, "sampling_parameters"),
        ({"sampling_parameters": {"n": 2}}, "sampling_parameters.n"),
        ({"sampling_parameters": {"max_tokens": 0}}, "sampling_parameters.max_tokens"),
        ({"sampling_parameters": {"top_p": 0}}, "sampling_parameters.top_p"),
        ({"sampling_parameters": {"stop": [""]}}, "sampling_parameters.stop"),
        ({"sampling_parameters": {"request_id": "a b"}}, "sampling_parameters.request_id"),
        ({"model": "../x"}, "model_name"),
    ],
)
async def test_an_illegal_request_is_named(
    stand: Stand, inputs: dict[str, Any], field: str
) -> None:
    await stand.generation()
    served = await serve(stand)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.stub.ModelInfer(request(**inputs))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (raised.value.details() or "")


async def test_an_unknown_name_is_an_error_if_the_setting_says_so(stand: Stand) -> None:
    await stand.generation()
    served = await serve(stand, unknown_fields="refuse")
    with pytest.raises(grpc.aio.AioRpcError, match="foo") as raised:
        await served.stub.ModelInfer(request(sampling_parameters={"foo": 1}))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_each_request_counts_as_a_call_of_generate(stand: Stand) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    served = await serve(stand, max_concurrent_rpcs=1)
    call = served.stream()
    await call.write(request("a b", "first", stream=True))
    assert text_of((await call.read()).infer_response) == "a "

    await call.write(request("a b", "second", stream=True))
    refused = await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.stub.ModelInfer(request())
    generation.go_on.set()
    rest = await call.read()
    await call.done_writing()

    assert refused.infer_response.id == "second"
    assert "calls" in refused.error_message
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert text_of(rest.infer_response) == "b "
    assert await call.read() is grpc.aio.EOF
    await served.stub.ModelInfer(request())  # the place is free again


async def test_a_cancelled_stream_frees_the_places_of_its_requests(stand: Stand) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    served = await serve(stand, max_concurrent_rpcs=4, max_rpcs_per_caller=4)
    call = served.stream()
    for number in range(4):
        await call.write(request("a b", str(number), stream=True))
    for _ in range(4):
        await call.read()

    call.cancel()

    await until(lambda: generation.interrupted == 4)
    generation.go_on.set()
    assert len(await ask(served, *[request("a", stream=True)] * 4)) == 4


async def test_the_caller_is_that_of_the_stream(stand: Stand) -> None:
    generation = await stand.generation()
    served = await serve(stand)
    metadata = (("mlxmesh-caller", "ada"),)
    call = served.stream(metadata=metadata)
    await call.write(request("a", stream=True))
    await call.done_writing()
    assert len([one async for one in answers(call)]) == 1
    await served.stub.ModelInfer(request("a"), metadata=metadata)
    assert [each["mlxmesh-caller"] for each in generation.metadata] == ["ada", "ada"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_deadlines_of_the_call_and_of_the_request(stand: Stand, streamed: bool) -> None:
    generation = await stand.generation()
    served = await serve(stand)
    asked = request("a", stream=streamed)
    asked.parameters["timeout"].int64_param = 60_000_000

    await ask(served, asked)
    call = served.stream(timeout=30)
    await call.write(asked)
    await call.done_writing()
    assert [one async for one in answers(call)]

    first, second = generation.remaining_s
    assert first is not None
    assert 31 < first < 60.1
    assert second is not None
    assert 1 < second < 30.1


async def test_a_request_past_its_deadline_fails_alone(stand: Stand) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    served = await serve(stand)
    asked = request("a b", "late", stream=True)
    asked.parameters["timeout"].int64_param = 200_000
    first, failed = await ask(served, asked)
    assert text_of(first.infer_response) == "a "
    assert "deadline" in failed.error_message
    generation.go_on.set()
    assert len(await ask(served, request("a b", stream=True))) == 2


async def test_bytes_that_are_no_message_end_the_stream(stand: Stand) -> None:
    await stand.generation()
    served = await serve(stand)
    call = served.channel.stream_stream(f"/{INFERENCE}/ModelStreamInfer")()
    await call.write(b"\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async with asyncio.timeout(30):
            await call.read()
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_that_is_too_large_ends_the_stream(stand: Stand) -> None:
    await stand.generation()
    served = await serve(stand, max_message_bytes=65536)
    call = served.stream()
    await call.write(request("a" * 70_000))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async with asyncio.timeout(30):
            await call.read()
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_slow_reader_costs_only_itself(stand: Stand) -> None:
    await stand.generation()
    served = await serve(stand)
    slow = served.stream()
    long = " ".join(["word" * 200] * 20_000)[:3_000_000]
    await slow.write(request(long, "slow", stream=True))
    await slow.read()

    for _ in range(5):
        assert len(await ask(served, request("a b", stream=True))) == 2

    slow.cancel()


async def test_one_caller_cannot_take_every_stream(stand: Stand) -> None:
    await stand.generation()
    served = await serve(stand, max_message_bytes=2**20, max_held_bytes=2**20)
    calls = [served.stream() for _ in range(4)]
    for call in calls:
        await call.write(request("a", stream=True))
        await call.read()

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ask(served, request("a"))
    other = served.stream(metadata=(("mlxmesh-caller", "ada"),))
    await other.write(request("a"))
    await other.done_writing()

    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len([one async for one in answers(other)]) == 1
    for call in calls:
        call.cancel()
    await until_answered(served)


async def until_answered(served: Served) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await ask(served, request("a"))
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
            else:
                return


async def test_a_stream_resumes_when_its_instance_is_lost(stand: Stand) -> None:
    first = await stand.generation("generation-1")
    second = await stand.generation("generation-2")
    first.truncate_after = 2
    served = await serve(stand)

    responses = await ask(served, request("a b c d", stream=True))

    assert "".join(text_of(one.infer_response) for one in responses) == "a b c d "
    assert (len(first.requests), len(second.resumed)) == (1, 1)


async def test_a_drain_ends_streams_after_their_requests(stand: Stand) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    async with stand.running_gateway(drain_grace_s=60) as (address, leaving):
        served = Served(stand, address, await stand.channel(address))
        idle, busy = served.stream(), served.stream()
        await idle.write(request("a"))
        await idle.read()
        await busy.write(request("a b", stream=True))
        await busy.read()

        leaving.set()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async with asyncio.timeout(30):
                await idle.read()
        generation.go_on.set()
        rest = await busy.read()
        with pytest.raises(grpc.aio.AioRpcError) as drained:
            await busy.read()

    assert text_of(rest.infer_response) == "b "
    for raised in (ended, drained):
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_server_and_its_models(stand: Stand) -> None:
    await stand.generation()
    models = await stand.models()
    versions = [
        m.ModelVersion(version=number, state=state)
        for number, state in ((1, m.VERSION_STATE_READY), (2, m.VERSION_STATE_AVAILABLE))
    ]
    models.models["pocket"] = m.Model(name="pocket", versions=versions, default_version=1)
    models.models["pocket@2"] = m.Model(name="pocket", versions=versions[1:], default_version=1)
    served = await serve(stand)
    stub = served.stub

    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
    assert (await stub.ServerMetadata(pb.ServerMetadataRequest())).name == "mlxmesh"
    assert (await stub.ModelReady(pb.ModelReadyRequest(name="pocket"))).ready
    assert not (await stub.ModelReady(pb.ModelReadyRequest(name="pocket", version="2"))).ready
    assert not (await stub.ModelReady(pb.ModelReadyRequest(name="nobody"))).ready
    model = await stub.ModelMetadata(pb.ModelMetadataRequest(name="pocket"))
    assert list(model.versions) == ["1", "2"]
    assert {each.name for each in model.inputs} >= {"text_input", "sampling_parameters"}
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ModelMetadata(pb.ModelMetadataRequest(name="nobody"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ModelReady(pb.ModelReadyRequest(name="pocket", version="x"))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await stand.health(served.channel, INFERENCE) == "SERVING"


async def test_a_mesh_that_cannot_generate_is_not_ready(stand: Stand) -> None:
    served = await serve(stand)
    assert (await served.stub.ServerLive(pb.ServerLiveRequest())).live
    assert not (await served.stub.ServerReady(pb.ServerReadyRequest())).ready
    assert await stand.health(served.channel, INFERENCE) == "NOT_SERVING"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.stub.ModelInfer(request())
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_reflection_has_the_service_and_its_comments(stand: Stand) -> None:
    served = await serve(stand)
    channel: Any = served.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    question = reflection_pb2.ServerReflectionRequest(file_containing_symbol=INFERENCE)
    (answer,) = [one async for one in stub.ServerReflectionInfo(iter([question]))]
    files = answer.file_descriptor_response.file_descriptor_proto
    assert any(b"text_input" in file for file in files)


async def test_plain_calls_of_generate_go_on_beside_it(stand: Stand) -> None:
    await stand.generation()
    served = await serve(stand)
    plain = [one async for one in served.mesh.Generate(g.GenerateRequest(model="p", prompt="a b"))]
    streamed = await ask(served, request("a b", stream=True, model="p"))
    assert [one.delta.text for one in plain if one.HasField("delta")] == [
        text_of(one.infer_response) for one in streamed
    ]


@pytest.mark.parametrize(
    ("sampling", "named"),
    [
        ({"regex": ""}, "regex"),
        ({"regex": "a" * 60_000}, ""),
        ({"choice": []}, "choice"),
        ({"choice": ["a"] * 1025}, "choice"),
        ({"session_id": "a b"}, "session_id"),
        ({"session_id": "s" * 128, "json_schema": {"type": "object"}}, ""),
    ],
)
async def test_the_contract_checks_constraints(
    stand: Stand, sampling: dict[str, Any], named: str
) -> None:
    generation = await stand.generation()
    served = await serve(stand)
    asked = request(sampling_parameters=sampling)
    if not named:
        await served.stub.ModelInfer(asked)
        (generate,) = generation.requests
        assert generate.WhichOneof("constraint") in sampling
        return
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.stub.ModelInfer(asked)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"sampling_parameters.{named}" in (raised.value.details() or "")
    assert generation.requests == []
