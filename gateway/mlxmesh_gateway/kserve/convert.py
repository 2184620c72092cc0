"""Converts between the protocol's messages, those of the mesh, and the objects of this package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.inference.v2 import inference_pb2 as pb
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh_gateway.kserve.inference import (
    FINAL_RESPONSE,
    Inference,
    InferRequest,
    model_reference,
)
from mlxmesh_gateway.kserve.output import IGNORED, Part, tensor_values
from mlxmesh_gateway.kserve.sampling import SAMPLING_PARAMETERS, SamplingParameters
from mlxmesh_gateway.kserve.tensors import INPUTS, OUTPUTS, RequestedOutput, Tensor, refused

EXTENSIONS = ("binary_tensor_data", "generate", "parameters")
_CONTENTS = {"BOOL": "bool_contents", "BYTES": "bytes_contents"}
_REASONS = {
    g.FINISH_REASON_STOP: "stop",
    g.FINISH_REASON_LENGTH: "length",
    g.FINISH_REASON_CANCELLED: "cancelled",
}
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
_OF_REQUEST = ("max_tokens", "ignore_eos", "priority", "request_id", "session_id", "adapter", "n")
_CONSTRAINTS = ("json_schema", "regex", "grammar", "choice", "json_object")


def infer_request(request: pb.ModelInferRequest) -> InferRequest:
    """Raises: InvalidArgument for tensors whose values are not where they belong."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise refused("raw_input_contents", "must have one value for each input, or none")
    return InferRequest(
        model_name=request.model_name,
        model_version=request.model_version,
        id=request.id,
        parameters={name: _parameter(name, value) for name, value in request.parameters.items()},
        inputs=[
            _tensor(tensor, raw[index] if raw else None)
            for index, tensor in enumerate(request.inputs)
        ],
        outputs=[
            RequestedOutput(name=output.name, parameters=tuple(output.parameters))
            for output in request.outputs
        ],
    )


def generate_request(inference: Inference) -> g.GenerateRequest:
    """Raises: InvalidArgument."""
    sampling = inference.sampling
    request = g.GenerateRequest(
        model=inference.model,
        prompt=inference.prompt,
        stop=sampling.stop,
        stop_token_ids=sampling.stop_token_ids,
        **_given(sampling, _OF_REQUEST),
    )
    if chosen := _given(sampling, _SAMPLING):
        request.sampling.CopyFrom(Sampling(**chosen))
    if sampling.service_tier == "flex":
        request.service_tier = g.SERVICE_TIER_FLEX
    _set_constraint(request, sampling)
    for token_id, bias in (sampling.logit_bias or {}).items():
        request.sampling.logit_bias[_token_id(token_id)] = bias
    return request


def _set_constraint(request: g.GenerateRequest, sampling: SamplingParameters) -> None:
    """Raises: InvalidArgument for several constraints."""
    given = {
        name: value for name, value in _given(sampling, _CONSTRAINTS).items() if value is not False
    }
    if len(given) > 1:
        name = [*given][1]
        raise refused(f"{SAMPLING_PARAMETERS}.{name}", "must be the only constraint")
    for name, value in given.items():
        if name == "choice":
            request.choice.CopyFrom(g.Choices(texts=value))
        elif name == "json_object":
            request.json_object.SetInParent()
        else:
            setattr(request, name, value)


def whole_part(response: g.CompleteResponse) -> Part:
    """The one part of a generation that was not streamed."""
    return Part(
        text=response.text,
        tokens=len(response.token_ids),
        prompt_tokens=response.started.prompt_tokens,
        finish_reason=_REASONS.get(response.finished.finish_reason, ""),
        version=response.started.model_version,
        last=True,
    )


class StreamedParts:
    """Reads the messages of one streamed generation as its parts."""

    def __init__(self) -> None:
        self._version = 0
        self._prompt_tokens = 0

    def read(self, message: bytes) -> Part | None:
        """The part in an encoded GenerateResponse; None for one without output."""
        response = g.GenerateResponse.FromString(message)
        event = response.WhichOneof("event")
        if event == "delta":
            delta = response.delta
            return self._part(delta.text, len(delta.token_ids), "", last=False)
        if event == "finished":
            reason = _REASONS.get(response.finished.finish_reason, "")
            return self._part("", 0, reason, last=True)
        if event == "started":
            self._version = response.started.model_version
            self._prompt_tokens = response.started.prompt_tokens
        return None

    def _part(self, text: str, tokens: int, reason: str, *, last: bool) -> Part:
        return Part(text, tokens, self._prompt_tokens, reason, self._version, last)


@dataclass(slots=True)
class Responses:
    """Makes the responses to one request."""

    inference: Inference
    _told: bool = False

    def of(self, part: Part, *, empty: bool = False) -> pb.ModelInferResponse:
        """A response with the part; empty: without outputs."""
        inference = self.inference
        response = pb.ModelInferResponse(
            model_name=inference.model_name, model_version=str(part.version), id=inference.id
        )
        if not empty:
            add, raw = response.outputs.add, response.raw_output_contents
            for name, value in tensor_values(inference, part, first=not self._told):
                add(name=name, datatype=OUTPUTS[name], shape=(1,))
                raw.append(value)
        if inference.ignored and not self._told:
            response.parameters[IGNORED].string_param = ", ".join(inference.ignored)
        self._told = True
        return response

    def streamed(self, part: Part, *, empty: bool = False) -> pb.ModelStreamInferResponse:
        """A response with the part, in a stream."""
        response = pb.ModelStreamInferResponse(infer_response=self.of(part, empty=empty))
        response.infer_response.parameters[FINAL_RESPONSE].bool_param = part.last
        return response


def failed_response(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
    """The response to a request of a stream that failed; the message is still to be set."""
    response = pb.ModelStreamInferResponse()
    response.infer_response.model_name = request.model_name
    response.infer_response.id = request.id
    response.infer_response.parameters[FINAL_RESPONSE].bool_param = True
    return response


def get_model_request(name: str, model_version: str) -> m.GetModelRequest:
    """Raises: InvalidArgument."""
    return m.GetModelRequest(model=model_reference(name, model_version))


def is_ready(model: m.Model) -> bool:
    """Whether the version that was asked for has a ready replica; an ensemble asks its models."""
    if model.HasField("ensemble"):
        return True
    versions = list(model.versions)
    if len(versions) > 1:  # else the only one may have been asked for
        versions = [each for each in versions if each.version == model.default_version]
    return any(each.state == m.VERSION_STATE_READY for each in versions)


def server_metadata() -> pb.ServerMetadataResponse:
    return pb.ServerMetadataResponse(
        name="mlxmesh", version=version("mlxmesh"), extensions=EXTENSIONS
    )


def model_metadata(model: m.Model) -> pb.ModelMetadataResponse:
    response = pb.ModelMetadataResponse(
        name=model.name, versions=[str(each.version) for each in model.versions], platform="mlx"
    )
    for tensors, known in ((response.inputs, INPUTS), (response.outputs, OUTPUTS)):
        for name, datatype in known.items():
            tensors.add(name=name, datatype=datatype, shape=(1,))
    return response


def _tensor(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Tensor:
    given = {field.name: value for field, value in tensor.contents.ListFields()}
    values = given.pop(_CONTENTS.get(tensor.datatype, ""), ())
    if given or (raw is not None and values):
        name = tensor.name if tensor.name in INPUTS else "inputs"
        raise refused(name, "must have its value either raw or in the contents of its datatype")
    return Tensor(
        name=tensor.name,
        datatype=tensor.datatype,
        shape=tuple(tensor.shape),
        values=values,
        raw=raw,
        parameters=tuple(tensor.parameters),
    )


def _parameter(name: str, parameter: pb.InferParameter) -> object:
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        raise refused("parameters", "must each have a value")
    return getattr(parameter, choice)


def _given(sampling: SamplingParameters, names: tuple[str, ...]) -> dict[str, Any]:
    values = {name: getattr(sampling, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _token_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise refused("sampling_parameters.logit_bias", "must have token ids as its names")
    return int(text)
