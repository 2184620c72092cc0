"""Converts between OpenAI's JSON and the contracts' messages."""

from __future__ import annotations

from mlxmesh.model.v1.model_pb2 import Model


def model_object(model: Model) -> dict[str, object]:
    """A model as OpenAI lists it."""
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "mlxmesh"}
