"""What a request of the protocol asks for, checked. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlxmesh_gateway.kserve.sampling import SAMPLING_PARAMETERS, SamplingParameters, read_sampling
from mlxmesh_gateway.kserve.tensors import (
    TEXT_INPUT,
    TEXT_OUTPUT,
    RequestedOutput,
    Tensor,
    Value,
    read_inputs,
    read_outputs,
    refused,
)
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

MAX_ID_CHARACTERS = 1024
MAX_PARAMETERS = 100
EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
FINAL_RESPONSE = "triton_final_response"
TIMEOUT = "timeout"
PRIORITY = "priority"
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_RETURNED = ("finish_reason", "num_input_tokens", "num_output_tokens")
_US_PER_S = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A request as a client sends it, unchecked."""

    model_name: str
    model_version: str
    id: str
    parameters: Mapping[str, object]
    """Texts, numbers and truth values."""
    inputs: Sequence[Tensor]
    outputs: Sequence[RequestedOutput]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """A generation that is asked for."""

    id: str
    model_name: str
    model: str
    """A model reference."""
    prompt: str
    stream: bool
    """Whether each delta is a response."""
    lead: str
    """Text before the output: the prompt, or nothing."""
    outputs: tuple[str, ...]
    """The names of the outputs to return."""
    sampling: SamplingParameters
    ignored: tuple[str, ...]
    """The names of parameters that nobody knows."""
    timeout_s: float | None
    empty_final_response: bool
    """Whether the end of a stream is a response even if it has no output."""


def read_inference(
    request: InferRequest, *, may_stream: bool, refuse_unknown: bool = False
) -> Inference:
    """The generation that a request asks for.

    Raises: InvalidArgument, FeatureNotSupported; each names the tensor or the parameter.
    """
    model = model_reference(request.model_name, request.model_version)
    if len(request.id) > MAX_ID_CHARACTERS:
        raise refused("id", f"must have at most {MAX_ID_CHARACTERS} characters")
    if len(request.parameters) > MAX_PARAMETERS:
        raise refused("parameters", f"must be at most {MAX_PARAMETERS}")
    inputs = read_inputs(request.inputs)
    stream = _flag(inputs, "stream")
    if stream and not may_stream:
        raise refused("stream", "must be false here: use ModelStreamInfer or generate_stream")
    prompt = _prompt(inputs)
    parameters = dict(request.parameters)
    timeout_s = _timeout_s(parameters.pop(TIMEOUT, 0))
    empty_final = _switch(parameters.pop(EMPTY_FINAL_RESPONSE, False))
    if parameters.pop(PRIORITY, 0) != 0:
        raise FeatureNotSupported(
            "priority of a request orders the other way round in Triton; set it in"
            f" {SAMPLING_PARAMETERS}, where higher values start first",
            field=PRIORITY,
        )
    sampling, ignored = read_sampling(
        _bytes(inputs, SAMPLING_PARAMETERS), parameters, refuse_unknown=refuse_unknown
    )
    return Inference(
        id=request.id,
        model_name=request.model_name,
        model=model,
        prompt=prompt,
        stream=stream,
        lead="" if _excludes_input(inputs, stream=stream) else prompt,
        outputs=_outputs(request, inputs),
        sampling=sampling,
        ignored=tuple(ignored),
        timeout_s=timeout_s,
        empty_final_response=empty_final,
    )


def model_reference(name: str, version: str) -> str:
    """The reference of a model, of which a version may be named. Raises: InvalidArgument."""
    if not version:
        return name
    if not _VERSION.fullmatch(version):
        raise refused("model_version", "must be a whole number from 1 to 999999999")
    if "@" in name or ":" in name:
        raise refused("model_version", "must be empty, because model_name has a version or alias")
    return f"{name}@{version}"


def shorter(first_s: float | None, second_s: float | None) -> float | None:
    """The shorter of two times; None for no limit."""
    return min((each for each in (first_s, second_s) if each is not None), default=None)


def _prompt(inputs: Mapping[str, Value]) -> str:
    if TEXT_INPUT not in inputs:
        raise refused(TEXT_INPUT, "is required")
    try:
        return _bytes(inputs, TEXT_INPUT).decode()
    except UnicodeDecodeError:
        raise refused(TEXT_INPUT, "must be UTF-8") from None


def _excludes_input(inputs: Mapping[str, Value], *, stream: bool) -> bool:
    excludes = _flag(inputs, "exclude_input_in_output", default=stream)
    if stream and not excludes:
        raise refused("exclude_input_in_output", "must not be false together with stream")
    return excludes


def _outputs(request: InferRequest, inputs: Mapping[str, Value]) -> tuple[str, ...]:
    requested = read_outputs(request.outputs)
    returned = [name for name in _RETURNED if _flag(inputs, f"return_{name}")]
    return tuple(requested or [TEXT_OUTPUT, *returned])


def _timeout_s(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise refused(TIMEOUT, "must be a whole number of microseconds")
    return value / _US_PER_S if value else None


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(
            f"{EMPTY_FINAL_RESPONSE} must be true or false", field=EMPTY_FINAL_RESPONSE
        )
    return value


def _flag(inputs: Mapping[str, Value], name: str, *, default: bool = False) -> bool:
    return inputs.get(name, default) is True


def _bytes(inputs: Mapping[str, Value], name: str) -> bytes:
    value = inputs.get(name, b"")
    assert isinstance(value, bytes), "its datatype is BYTES"
    return value
