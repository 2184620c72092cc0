"""Formats of the output as constraints of the contract. Pure."""

from __future__ import annotations

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.openai.schema import SamplingFields
from mlxmesh_gateway.openai.tools import as_json
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument


def set_extra_constraint(generation: pb.GenerateRequest, request: SamplingFields) -> None:
    """Sets the constraint of which OpenAI has none. Raises: InvalidArgument for several."""
    asked = [name for name in ("regex", "grammar", "choice") if getattr(request, name) is not None]
    if len(asked) > 1:
        raise _both(asked[1], asked[0])
    if request.regex is not None:
        generation.regex = request.regex
    if request.grammar is not None:
        generation.grammar = request.grammar
    if request.choice is not None:
        generation.choice.CopyFrom(pb.Choices(texts=request.choice))


def set_format(
    generation: pb.GenerateRequest, kind: str, schema: object, *, field: str, schema_field: str
) -> None:
    """Sets the format that a field of OpenAI's asks for.

    Raises: InvalidArgument, also if the request has a constraint; FeatureNotSupported.
    """
    if kind not in ("text", "json_object", "json_schema"):
        raise FeatureNotSupported(
            f"{field}.type is not supported: text, json_object and json_schema are",
            field=f"{field}.type",
        )
    other = generation.WhichOneof("constraint")
    if other is not None and kind != "text":
        raise _both(other, field)
    if kind == "json_object":
        generation.json_object.SetInParent()
    if kind == "json_schema":
        if schema is None:
            raise InvalidArgument(f"{schema_field} is required", field=schema_field)
        generation.json_schema = as_json(schema)


def _both(field: str, other: str) -> InvalidArgument:
    return InvalidArgument(f"{field} must not be set together with {other}", field=field)
