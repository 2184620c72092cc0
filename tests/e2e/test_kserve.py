"""The Open Inference Protocol against a whole mesh: its answers are those of Generate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import httpx2
import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.inference.v2 import inference_pb2 as pb
from mlxmesh.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from mlxmesh_gateway.kserve.tensors import decode_bytes, encode_bytes
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh

PROMPT = "Once upon a time"
SAMPLINGS: list[dict[str, Any]] = [
    {"max_tokens": 24},
    {"max_tokens": 24, "temperature": 0.9, "top_p": 0.9, "top_k": 40, "seed": 11},
    {"max_tokens": 24, "repetition_penalty": 1.3, "stop": ["."], "ignore_eos": True},
]
FLAGS = ("exclude_input_in_output", "return_finish_reason", "return_num_output_tokens")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """With HTTP, and few places."""
    running = start_mesh(
        tmp_path_factory.mktemp("mesh"),
        "--http-port",
        "0",
        env={"MLXMESH_GATEWAY_MAX_CONCURRENT_RPCS": "16"},
    )
    yield running
    stop_mesh(running)


@pytest.fixture
async def channel(mesh: RunningMesh) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(mesh.address) as opened:
        yield opened


@pytest.fixture
async def http(mesh: RunningMesh) -> AsyncIterator[httpx2.AsyncClient]:
    (row,) = [row for row in mesh.status()["instances"] if row["service"] == "gateway"]
    async with httpx2.AsyncClient(base_url=f"http://{row['http']}", timeout=60) as client:
        yield client


def generate_request(sampling: dict[str, Any]) -> g.GenerateRequest:
    own = {"max_tokens", "stop", "ignore_eos"}
    request = g.GenerateRequest(
        model="pocket",
        prompt=PROMPT,
        **{name: value for name, value in sampling.items() if name in own},
    )
    for name, value in sampling.items():
        if name not in own:
            setattr(request.sampling, name, value)
    return request


async def reference(channel: grpc.aio.Channel, sampling: dict[str, Any]) -> tuple[str, int, str]:
    """Text, tokens and finish reason of the same request by Generate."""
    stub: Any = GenerationServiceStub(channel)
    text, tokens, reason = "", 0, ""
    async for response in stub.Generate(generate_request(sampling)):
        text += response.delta.text
        tokens += len(response.delta.token_ids)
        reason = reason or g.FinishReason.Name(response.finished.finish_reason)
        if not response.HasField("finished"):
            reason = ""
    return text, tokens, reason.removeprefix("FINISH_REASON_").lower()


def infer_request(
    sampling: dict[str, Any], *, stream: bool = False, request_id: str = ""
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="pocket", id=request_id)
    texts = {"text_input": PROMPT, "sampling_parameters": json.dumps(sampling)}
    for name, value in texts.items():
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(encode_bytes(value.encode()))
    for name in FLAGS:
        request.inputs.add(name=name, datatype="BOOL", shape=[1])
        request.raw_input_contents.append(b"\1")
    request.inputs.add(name="stream", datatype="BOOL", shape=[1])
    request.raw_input_contents.append(bytes([stream]))
    return request


def outputs_of(response: pb.ModelInferResponse) -> tuple[str, str, int]:
    """Text, finish reason and tokens."""
    text, reason, tokens = response.raw_output_contents
    return (
        decode_bytes(text).decode(),
        decode_bytes(reason).decode(),
        int.from_bytes(tokens, "little"),
    )


@pytest.mark.parametrize("sampling", SAMPLINGS)
async def test_grpc_answers_are_those_of_generate(
    channel: grpc.aio.Channel, sampling: dict[str, Any]
) -> None:
    stub: Any = GRPCInferenceServiceStub(channel)
    text, tokens, reason = await reference(channel, sampling)

    whole = outputs_of(await stub.ModelInfer(infer_request(sampling)))
    call = stub.ModelStreamInfer(iter([infer_request(sampling, stream=True)]))
    parts = [outputs_of(response.infer_response) async for response in call]

    assert tokens > 1
    assert whole == (text, reason, tokens)
    assert "".join(part[0] for part in parts) == text
    assert sum(part[2] for part in parts) == tokens
    assert [part[1] for part in parts] == ["None"] * (len(parts) - 1) + [reason]


@pytest.mark.parametrize("sampling", SAMPLINGS)
async def test_http_answers_are_those_of_generate(
    channel: grpc.aio.Channel, http: httpx2.AsyncClient, sampling: dict[str, Any]
) -> None:
    text, tokens, reason = await reference(channel, sampling)
    given = {"text_input": PROMPT, **dict.fromkeys(FLAGS, True), **sampling}

    whole = await http.post("/v2/models/pocket/generate", json=given)
    events = await http.post("/v2/models/pocket/generate_stream", json={**given, "stream": True})
    once = await http.post("/v2/models/pocket/versions/1/generate_stream", json=given)

    answer = {
        "model_name": "pocket",
        "model_version": "1",
        "text_output": text,
        "finish_reason": reason,
        "num_output_tokens": tokens,
    }
    assert whole.json() == answer
    assert events_of(once) == [answer]
    parts = events_of(events)
    assert "".join(part["text_output"] for part in parts) == text
    assert sum(part["num_output_tokens"] for part in parts) == tokens
    assert parts[-1]["finish_reason"] == reason


def events_of(response: httpx2.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("binary", [False, True])
async def test_infer_over_http(
    channel: grpc.aio.Channel, http: httpx2.AsyncClient, binary: bool
) -> None:
    text, _, _ = await reference(channel, SAMPLINGS[0])
    value = encode_bytes(PROMPT.encode())
    tensor: dict[str, Any] = {"name": "text_input", "datatype": "BYTES", "shape": [1]}
    tensor |= {"parameters": {"binary_data_size": len(value)}} if binary else {"data": [PROMPT]}
    body = {"id": "7", "inputs": [tensor], "parameters": {"max_tokens": 24}}
    if binary:
        body["parameters"]["binary_data_output"] = True
    encoded = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    if binary:
        headers = {"inference-header-content-length": str(len(encoded))}

    response = await http.post(
        "/v2/models/pocket/infer", content=encoded + value * binary, headers=headers
    )

    assert response.status_code == 200
    content = response.content
    if binary:
        length = int(response.headers["inference-header-content-length"])
        content, after = content[:length], content[length:]
        assert response.headers["content-type"] == "application/octet-stream"
        assert decode_bytes(after).decode() == PROMPT + text
    answer = json.loads(content)
    assert (answer["id"], answer["model_version"]) == ("7", "1")
    if not binary:
        assert answer["outputs"][0]["data"] == [PROMPT + text]


async def test_the_server_and_its_models_over_http(http: httpx2.AsyncClient) -> None:
    async def get(path: str) -> tuple[int, Any]:
        response = await http.get(path)
        return response.status_code, response.json()

    assert (await get("/v2"))[1]["name"] == "mlxmesh"
    assert await get("/v2/health/live") == (200, {"live": True})
    assert await get("/v2/health/ready") == (200, {"ready": True})
    status, model = await get("/v2/models/pocket")
    assert (status, model["versions"], model["inputs"][0]["shape"]) == (200, ["1"], [1])
    assert await get("/v2/models/pocket/versions/1/ready") == (
        200,
        {"name": "pocket", "ready": True},
    )
    assert (await get("/v2/models/nobody/ready"))[0] == 404
    assert (await get("/v2/models/pocket/versions/x"))[0] == 400
    assert (await get("/v2/models/pocket@1/versions/1"))[0] == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("generate", b"{", 400, "not valid JSON"),
        ("generate", b"[]", 400, "JSON object"),
        ("generate", b"{}", 400, "text_input is required"),
        ("generate", b'{"text_input": ""}', 400, "text_input"),
        ("generate", b'{"text_input": "\\ud800"}', 400, "not valid JSON"),
        ("generate", b'{"text_input": "a", "temperature": 11}', 400, "sampling_parameters.temp"),
        ("generate", b'{"text_input": "a", "max_tokens": 0}', 400, "sampling_parameters.max"),
        ("generate", b'{"text_input": "a", "stream": true}', 400, "stream must be false here"),
        ("generate", b'{"text_input": "a", "n": 2}', 400, "sampling_parameters.n"),
        ("generate_stream", b'{"text_input": "a", "temperature": 11}', 400, "sampling_param"),
        ("infer", b"{}", 400, "inputs"),
        ("infer", b'{"inputs": []}', 400, "text_input is required"),
        (
            "infer",
            b'{"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [-1], "data": []}]}',
            400,
            "text_input must have the shape",
        ),
        ("infer", b"[" * 100_000, 400, "not valid JSON"),
    ],
)
async def test_illegal_requests_over_http(
    http: httpx2.AsyncClient, path: str, body: bytes, status: int, words: str
) -> None:
    headers = {"content-type": "application/json"}
    response = await http.post(f"/v2/models/pocket/{path}", content=body, headers=headers)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert words in response.json()["error"]


async def test_ignored_names_are_told_in_a_header(http: httpx2.AsyncClient) -> None:
    body = {"text_input": "a", "max_tokens": 1, "foo": 1, "parameters": {"bar": "x"}}
    response = await http.post("/v2/models/pocket/generate", json=body)
    assert response.headers["mlxmesh-ignored-fields"] == "foo, bar"


async def test_streams_that_are_cancelled_free_their_places(
    channel: grpc.aio.Channel, http: httpx2.AsyncClient
) -> None:
    """More of them than there are places, one after another."""
    stub: Any = GRPCInferenceServiceStub(channel)
    endless = {"max_tokens": 1900, "ignore_eos": True}
    body = {"text_input": PROMPT, "stream": True, **endless}
    for _ in range(10):
        call = stub.ModelStreamInfer()
        for number in range(4):
            await call.write(infer_request(endless, stream=True, request_id=str(number)))
        response = await call.read()
        assert not response.error_message
        call.cancel()
        async with http.stream("POST", "/v2/models/pocket/generate_stream", json=body) as events:
            assert events.status_code == 200
            await anext(events.aiter_lines())

    async with asyncio.timeout(30):
        while await _refused(stub):
            await asyncio.sleep(0.05)


async def _refused(stub: Any) -> bool:
    """Whether one of as many requests as there are places is refused."""
    call = stub.ModelStreamInfer(iter([infer_request({"max_tokens": 1}) for _ in range(12)]))
    return any([response.error_message async for response in call])


async def test_nothing_of_a_prompt_is_logged(
    mesh: RunningMesh, channel: grpc.aio.Channel, http: httpx2.AsyncClient
) -> None:
    canary = "canaryZX81"
    stub: Any = GRPCInferenceServiceStub(channel)
    bad = infer_request({"max_tokens": 1, "seed": canary})
    bad.raw_input_contents[0] = encode_bytes(canary.encode())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ModelInfer(bad)
    response = await http.post(
        "/v2/models/pocket/generate", json={"text_input": canary, "top_p": canary}
    )
    assert response.status_code == 400
    assert canary not in (raised.value.details() or "") + response.text
    logs = list(mesh.data_dir.rglob("*.log"))
    assert logs
    assert [path for path in logs if canary in path.read_text()] == []
