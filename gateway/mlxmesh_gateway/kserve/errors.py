"""Errors in the words of the protocol. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from mlxmesh_gateway.kserve.sampling import SAMPLING_PARAMETERS, SamplingParameters
from mlxmesh_gateway.kserve.tensors import TEXT_INPUT
from mlxmesh_shared.errors import MeshError

_NAMES: Mapping[str, str] = {
    "model": "model_name",
    "prompt": TEXT_INPUT,
    **{name: f"{SAMPLING_PARAMETERS}.{name}" for name in SamplingParameters.model_fields},
}
"""What the protocol calls fields of GenerateRequest and Sampling."""
_PREFIXES = ("generation.", "sampling.")


def renamed(error: MeshError) -> MeshError:
    """The error of a call of the mesh, with the protocol's name of the field."""
    field = error.field
    for prefix in _PREFIXES:
        field = field.removeprefix(prefix)
    base, separator, rest = field.partition(".") if "." in field else field.partition("[")
    name = _NAMES.get(base)
    if name is None:
        return error
    name = f"{name}{separator}{rest}"
    message = error.message
    if message.startswith(error.field):
        message = name + message.removeprefix(error.field)
    return type(error)(message, field=name, retry_delay_s=error.retry_delay_s)


def error_body(error: MeshError, _status: int) -> dict[str, object]:
    """The body of an HTTP response that reports an error."""
    return {"error": renamed(error).message}


def unmatched_body(message: str, _code: str) -> dict[str, object]:
    """The body of a response to a request that no route takes."""
    return {"error": message}
