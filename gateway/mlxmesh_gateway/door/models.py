"""Which models a principal may use. Pure."""

from __future__ import annotations

from mlxmesh_gateway.door.principal import Principal
from mlxmesh_shared.errors import ModelNotAllowed, ModelNotFound
from mlxmesh_shared.model_patterns import allows


def check_model(principal: Principal, reference: str) -> None:
    """Raises: ModelNotAllowed."""
    if not allows(principal.models, reference):
        raise ModelNotAllowed(
            f"this key may not use the model {reference}; it may use {', '.join(principal.models)}",
            field="model",
        )


def unknown_model(reference: str) -> ModelNotFound:
    """What a caller gets that asks for the description of a model that it may not use."""
    return ModelNotFound(f"there is no model {reference}", field="model")
