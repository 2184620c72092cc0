"""A request, with everything fixed that its output depends on."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_generation.catalogue import ModelVersion
from mlxmesh_generation.request import GenerationRequest


@dataclass(frozen=True)
class Plan:
    """What one generation will do, on whatever engine."""

    request: GenerationRequest
    version: ModelVersion
    prompt_token_ids: Sequence[int]
    max_tokens: int
    seed: int
    received_s: float
    """When the request came, in time.monotonic()."""
    deadline_s: float | None
    """When it must have ended, likewise."""
