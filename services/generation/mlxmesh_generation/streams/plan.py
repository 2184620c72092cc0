"""What one generation will do."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.request import GenerationRequest
from mlxmesh_shared.errors import MeshError


@dataclass(frozen=True)
class Plan:
    """All that an engine needs to run a request, whichever engine that is."""

    request: GenerationRequest
    version: ModelVersion
    prompt_token_ids: Sequence[int]
    max_tokens: int
    seed: int
    received_s: float
    """When the request arrived, in time.monotonic()."""
    deadline_s: float | None
    """When the generation must have ended, in time.monotonic()."""


def name_callers_field(error: MeshError, request: GenerationRequest) -> MeshError:
    """Makes an engine's error name the field of the caller's request."""
    is_default = error.field == "max_tokens" and request.max_tokens is None
    if is_default or error.field.startswith("prompt_token_ids"):
        error.field = request.input.field
    return error
