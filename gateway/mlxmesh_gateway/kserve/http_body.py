"""Bodies of the HTTP protocol: JSON, with the values of tensors after it or in it.

Source: the extensions for binary tensor data and for generate of Triton's protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import Field

from mlxmesh_gateway.http.body import JsonObject, parse_json
from mlxmesh_gateway.http.schema import Schema
from mlxmesh_gateway.kserve.inference import InferRequest
from mlxmesh_gateway.kserve.tensors import INPUTS, RequestedOutput, Tensor, quotable, refused
from mlxmesh_shared.errors import InvalidArgument

HEADER_LENGTH = "inference-header-content-length"
"""The header that says how long the JSON is before the values of tensors."""
BINARY_SIZE = "binary_data_size"
BINARY_OUTPUT = "binary_data"
BINARY_OUTPUTS = "binary_data_output"
_MAX_TENSORS = 64


class InputTensor(Schema):
    """An input."""

    name: str
    datatype: str
    shape: Annotated[list[int], Field(max_length=16)]
    data: list[Any] | bytes | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class OutputTensor(Schema):
    """An output to return."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferBody(Schema):
    """A request to infer."""

    id: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: Annotated[list[InputTensor], Field(max_length=_MAX_TENSORS)]
    outputs: Annotated[list[OutputTensor], Field(max_length=_MAX_TENSORS)] = Field(
        default_factory=list[OutputTensor]
    )

    def binary_outputs(self, names: Iterable[str]) -> set[str]:
        """Those of the outputs that are returned after the JSON."""
        every = self.parameters.get(BINARY_OUTPUTS) is True
        asked = {one.name: one.parameters.get(BINARY_OUTPUT, every) for one in self.outputs}
        return {name for name in names if asked.get(name, every) is True}


class GenerateBody(Schema):
    """A request to generate; other names are inputs or sampling parameters too."""

    id: str = ""
    text_input: str
    parameters: dict[str, Any] = Field(default_factory=dict)


async def parse_infer(body: bytes, headers: Mapping[str, str]) -> JsonObject:
    """The JSON of a request to infer, with the binary values put into its inputs as `data`."""
    stated = headers.get(HEADER_LENGTH)
    if stated is None:
        return await parse_json(body, headers)
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 9):
        raise refused(HEADER_LENGTH, "must be a number of bytes")
    length = int(stated)
    if length > len(body):
        raise refused(HEADER_LENGTH, f"is {length}, but the body has {len(body)} bytes")
    parsed = await parse_json(body[:length], {})
    _place_values(parsed.get("inputs"), memoryview(body)[length:])
    return parsed


def infer_request(model_name: str, model_version: str, body: InferBody) -> InferRequest:
    """Raises: InvalidArgument."""
    parameters = {name: one for name, one in body.parameters.items() if name != BINARY_OUTPUTS}
    return InferRequest(
        model_name=model_name,
        model_version=model_version,
        id=body.id,
        parameters=parameters,
        inputs=[_tensor(one) for one in body.inputs],
        outputs=[
            RequestedOutput(
                name=one.name,
                parameters=[name for name in one.parameters if name != BINARY_OUTPUT],
            )
            for one in body.outputs
        ],
    )


def generate_request(
    model_name: str, model_version: str, body: Mapping[str, object]
) -> InferRequest:
    """A request to generate as one to infer: its names are inputs or parameters.

    Raises: InvalidArgument.
    """
    given = dict(body)
    request_id, nested = given.pop("id", ""), given.pop("parameters", {})
    if not isinstance(request_id, str):
        raise refused("id", "must be a text")
    if not isinstance(nested, dict):
        raise refused("parameters", "must be an object")
    for name, value in cast("dict[str, object]", nested).items():
        if name in given:
            told = quotable(name) or "a name"
            raise refused("parameters", f"and the request both have {told}; set it once")
        given[name] = value
    return InferRequest(
        model_name=model_name,
        model_version=model_version,
        id=request_id,
        parameters={name: value for name, value in given.items() if name not in INPUTS},
        inputs=[
            Tensor(name=name, datatype=INPUTS[name], shape=(1,), values=_values(value))
            for name, value in given.items()
            if name in INPUTS
        ],
        outputs=(),
    )


def _tensor(tensor: InputTensor) -> Tensor:
    raw = tensor.data if isinstance(tensor.data, bytes) else None
    return Tensor(
        name=tensor.name,
        datatype=tensor.datatype,
        shape=tensor.shape,
        values=() if isinstance(tensor.data, bytes) else _values(tensor.data or []),
        raw=raw,
        parameters=tuple(tensor.parameters),
    )


def _values(data: object) -> Sequence[object]:
    """The values in JSON: flat, or nested as the shape is."""
    while isinstance(data, list):
        values = cast("list[object]", data)
        if len(values) != 1:
            return values
        data = values[0]
    return (data.encode() if isinstance(data, str) else data,)


def _place_values(inputs: object, values: memoryview) -> None:
    """Raises: InvalidArgument when the sizes are not those of the values."""
    offset = 0
    for tensor in cast("list[object]", inputs) if isinstance(inputs, list) else ():
        size = _take_size(tensor)
        if size is None:
            continue
        name = _name_of(tensor)
        if offset + size > len(values):
            raise refused(name, f"has a {BINARY_SIZE} beyond the end of the body")
        cast("dict[str, object]", tensor)["data"] = bytes(values[offset : offset + size])
        offset += size
    if offset != len(values):
        raise InvalidArgument(
            f"{len(values) - offset} bytes of the body belong to no input", field="inputs"
        )


def _take_size(tensor: object) -> int | None:
    """Removes the size of an input's binary value; None for one in JSON."""
    parameters = cast("dict[str, object]", tensor).get("parameters") if _is(tensor) else None
    if not _is(parameters):
        return None
    size = cast("dict[str, object]", parameters).pop(BINARY_SIZE, None)
    if size is None:
        return None
    name = _name_of(tensor)
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise refused(name, f"has a {BINARY_SIZE} that is no number of bytes")
    if "data" in cast("dict[str, object]", tensor):
        raise refused(name, "has its value both in data and after the JSON")
    return size


def _is(value: object) -> bool:
    return isinstance(value, dict)


def _name_of(tensor: object) -> str:
    name = cast("dict[str, object]", tensor).get("name")
    return name if isinstance(name, str) and name in INPUTS else "inputs"
