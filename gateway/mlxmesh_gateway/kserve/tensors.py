"""The tensors of a request and of a response, each with one value. Pure.

Source: the extension for binary tensor data of the Open Inference Protocol.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlxmesh_shared.errors import InvalidArgument

TEXT_INPUT = "text_input"
TEXT_OUTPUT = "text_output"
INPUTS: Mapping[str, str] = {
    TEXT_INPUT: "BYTES",
    "sampling_parameters": "BYTES",
    "stream": "BOOL",
    "exclude_input_in_output": "BOOL",
    "return_finish_reason": "BOOL",
    "return_num_input_tokens": "BOOL",
    "return_num_output_tokens": "BOOL",
}
"""The datatype of each input."""
OUTPUTS: Mapping[str, str] = {
    TEXT_OUTPUT: "BYTES",
    "finish_reason": "BYTES",
    "num_input_tokens": "UINT32",
    "num_output_tokens": "UINT32",
}
"""The datatype of each output."""
SHAPES = ((1,), (1, 1))
_LENGTH = struct.Struct("<I")
_LEGAL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")

Value = bytes | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input as a client sends it, unchecked."""

    name: str
    datatype: str
    shape: Sequence[object]
    values: Sequence[object] = ()
    """Its values, each bytes or bool if it is legal."""
    raw: bytes | None = None
    """Its values, encoded; then there are no others."""
    parameters: Sequence[str] = ()
    """The names of its parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOutput:
    """An output that a client asks for, unchecked."""

    name: str
    parameters: Sequence[str] = ()
    """The names of its parameters."""


def read_inputs(tensors: Iterable[Tensor]) -> dict[str, Value]:
    """The value of each input. Raises: InvalidArgument, which names the tensor."""
    values: dict[str, Value] = {}
    for tensor in tensors:
        name = _known(tensor.name, INPUTS, "input")
        if name in values:
            raise refused(name, "occurs twice")
        _check_no_parameters(name, tensor.parameters)
        values[name] = _value(name, tensor)
    return values


def read_outputs(requested: Iterable[RequestedOutput]) -> list[str]:
    """The names of the outputs that are asked for. Raises: InvalidArgument, which names one."""
    names: list[str] = []
    for output in requested:
        name = _known(output.name, OUTPUTS, "output")
        if name in names:
            raise refused(name, "is requested twice")
        _check_no_parameters(name, output.parameters)
        names.append(name)
    return names


def encode_bytes(value: bytes) -> bytes:
    """A tensor of one BYTES value."""
    return _LENGTH.pack(len(value)) + value


def decode_bytes(encoded: bytes) -> bytes:
    """The value in a tensor of one BYTES value. Raises: ValueError."""
    if len(encoded) < _LENGTH.size:
        raise ValueError("must begin with the length of its value in 4 bytes")
    (length,) = _LENGTH.unpack_from(encoded)
    has = len(encoded) - _LENGTH.size
    if length != has:
        raise ValueError(f"states a length of {length} bytes, but {has} follow")
    return encoded[_LENGTH.size :]


def encode_count(value: int) -> bytes:
    """A tensor of one UINT32 value."""
    return _LENGTH.pack(value)


def refused(name: str, why: str) -> InvalidArgument:
    """The error for an illegal tensor or parameter."""
    return InvalidArgument(f"{name} {why}", field=name)


def quotable(name: str) -> str:
    """A name from a client as an error may quote it; empty if it may not."""
    return name if _LEGAL_NAME.fullmatch(name) else ""


def _known(name: str, known: Iterable[str], kind: str) -> str:
    if name in known:
        return name
    told = quotable(name)
    article = f"an {kind} that is not known" if not told else f"{told} is no {kind}"
    raise InvalidArgument(f"{article}; there are: {', '.join(known)}", field=told or f"{kind}s")


def _check_no_parameters(name: str, parameters: Iterable[str]) -> None:
    for parameter in parameters:
        told = quotable(parameter)
        raise refused(name, f"has a parameter that is not supported{f': {told}' * bool(told)}")


def _value(name: str, tensor: Tensor) -> Value:
    datatype = INPUTS[name]
    if tensor.datatype != datatype:
        raise refused(name, f"must have the datatype {datatype}")
    if tuple(tensor.shape) not in SHAPES:
        raise refused(name, "must have the shape [1]")
    if tensor.raw is not None:
        return _raw_value(name, datatype, tensor.raw)
    if len(tensor.values) != 1:
        raise refused(name, f"must have one value, but has {len(tensor.values)}")
    value = tensor.values[0]
    if isinstance(value, bool if datatype == "BOOL" else bytes):
        return value
    raise refused(name, f"must have a value of the datatype {datatype}")


def _raw_value(name: str, datatype: str, raw: bytes) -> Value:
    if datatype == "BOOL":
        if raw not in (b"\0", b"\1"):
            raise refused(name, "must be one byte, 0 or 1")
        return raw == b"\1"
    try:
        return decode_bytes(raw)
    except ValueError as error:
        raise refused(name, str(error)) from None
