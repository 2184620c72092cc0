"""The handlers of the HTTP protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.inference.v2 import inference_pb2 as pb
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.kserve import convert, http_body
from mlxmesh_gateway.kserve.errors import renamed
from mlxmesh_gateway.kserve.inference import Inference, InferRequest, read_inference, shorter
from mlxmesh_gateway.kserve.methods import COMPLETE, GENERATE, GET_MODEL
from mlxmesh_gateway.kserve.output import Part, is_shown, tensor_values, values
from mlxmesh_gateway.kserve.tensors import OUTPUTS
from mlxmesh_shared.errors import MeshError

_NOT_READY = 400
"""Source: the protocol says 4xx for false."""


async def server_live(exchange: Exchange) -> None:
    """GET /v2/health/live."""
    await exchange.respond(200, {"live": True})


async def server_ready(exchange: Exchange) -> None:
    """GET /v2/health/ready."""
    ready = exchange.calls.ready
    await exchange.respond(200 if ready else _NOT_READY, {"ready": ready})


async def server_metadata(exchange: Exchange) -> None:
    """GET /v2."""
    server = convert.server_metadata()
    body = {"name": server.name, "version": server.version, "extensions": [*server.extensions]}
    await exchange.respond(200, body)


async def model_metadata(exchange: Exchange) -> None:
    """GET /v2/models/{model}."""
    model = convert.model_metadata(await _model(exchange))
    body = {
        "name": model.name,
        "versions": [*model.versions],
        "platform": model.platform,
        "inputs": [_tensor_metadata(each) for each in model.inputs],
        "outputs": [_tensor_metadata(each) for each in model.outputs],
    }
    await exchange.respond(200, body)


async def model_ready(exchange: Exchange) -> None:
    """GET /v2/models/{model}/ready."""
    model = await _model(exchange)
    ready = convert.is_ready(model)
    body = {"name": exchange.path_params["model"], "ready": ready}
    await exchange.respond(200 if ready else _NOT_READY, body)


async def infer(exchange: Exchange) -> None:
    """POST /v2/models/{model}/infer."""
    body = exchange.read(http_body.InferBody)
    inference = _read(exchange, http_body.infer_request(*_reference(exchange), body))
    part = await _whole(exchange, inference)
    header, data = _infer_response(inference, part, body.binary_outputs(inference.outputs))
    if not data:
        await exchange.respond(200, header)
        return
    encoded = json.dumps(header, ensure_ascii=False).encode()
    await exchange.respond(
        200,
        encoded + data,
        [(http_body.HEADER_LENGTH, str(len(encoded)))],
        content_type="application/octet-stream",
    )


async def generate(exchange: Exchange) -> None:
    """POST /v2/models/{model}/generate."""
    request = http_body.generate_request(*_reference(exchange), exchange.body)
    inference = _read(exchange, request)
    part = await _whole(exchange, inference)
    await exchange.respond(200, _generated(inference, part, values(inference, part, first=True)))


async def generate_stream(exchange: Exchange) -> None:
    """POST /v2/models/{model}/generate_stream."""
    request = http_body.generate_request(*_reference(exchange), exchange.body)
    inference = _read(exchange, request, may_stream=True)
    exchange.keep_alive()
    try:
        if inference.stream:
            await _deltas(exchange, inference)
        else:
            part = await _whole(exchange, inference)
            outputs = values(inference, part, first=True)
            await exchange.event(_compact(_generated(inference, part, outputs)))
    except MeshError as error:
        if not exchange.started:
            raise
        await exchange.event(_compact({"error": renamed(error).message}))
    await exchange.end_events()


async def _deltas(exchange: Exchange, inference: Inference) -> None:
    parts = convert.StreamedParts()
    head = ""  # the same in each event

    async def pass_on(message: bytes) -> None:
        nonlocal head
        part = parts.read(message)
        if part is None or not is_shown(inference, part, first=not head):
            return
        outputs = values(inference, part, first=not head)
        head = head or _compact(_generated(inference, part, {})).removesuffix("}")
        await exchange.event(f"{head}, {_compact(outputs)[1:]}")

    await exchange.calls.stream(GENERATE, convert.generate_request(inference), pass_on)


def _read(exchange: Exchange, request: InferRequest, *, may_stream: bool = False) -> Inference:
    inference = read_inference(
        request, may_stream=may_stream, refuse_unknown=exchange.refuse_unknown
    )
    exchange.tell_ignored(inference.ignored)
    exchange.calls.remaining_s = shorter(exchange.calls.remaining_s, inference.timeout_s)
    return inference


async def _whole(exchange: Exchange, inference: Inference) -> Part:
    request = g.CompleteRequest(generation=convert.generate_request(inference))
    response = await exchange.calls.unary(COMPLETE, request, g.CompleteResponse)
    return convert.whole_part(response)


async def _model(exchange: Exchange) -> m.Model:
    request = convert.get_model_request(*_reference(exchange))
    return (await exchange.calls.unary(GET_MODEL, request, m.GetModelResponse)).model


def _reference(exchange: Exchange) -> tuple[str, str]:
    return exchange.path_params["model"], exchange.path_params.get("version", "")


def _generated(
    inference: Inference, part: Part, outputs: Mapping[str, str | int]
) -> dict[str, object]:
    head = {"id": inference.id} if inference.id else {}
    version = str(part.version)
    return {**head, "model_name": inference.model_name, "model_version": version, **outputs}


def _infer_response(
    inference: Inference, part: Part, binary: set[str]
) -> tuple[dict[str, object], bytes]:
    """The JSON of a response, and the values after it."""
    data: list[bytes] = []
    outputs: list[object] = []
    plain = values(inference, part, first=True)
    for name, encoded in tensor_values(inference, part, first=True):
        tensor: dict[str, object] = {"name": name, "datatype": OUTPUTS[name], "shape": [1]}
        if name in binary:
            tensor["parameters"] = {http_body.BINARY_SIZE: len(encoded)}
            data.append(encoded)
        else:
            tensor["data"] = [plain[name]]
        outputs.append(tensor)
    return _generated(inference, part, {}) | {"outputs": outputs}, b"".join(data)


def _tensor_metadata(tensor: pb.ModelMetadataResponse.TensorMetadata) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": [*tensor.shape]}


def _compact(body: object) -> str:
    return json.dumps(body, ensure_ascii=False)
