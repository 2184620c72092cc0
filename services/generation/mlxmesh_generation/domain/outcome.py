"""How one generation ended, for history, rollouts and experiments."""

from dataclasses import dataclass
from enum import Enum

from mlxmesh_generation.domain.routing import UNASSIGNED, Assignment


class Status(Enum):
    """How a generation ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    """With an error of the mesh."""
    REFUSED = "refused"
    """With an error of the request."""
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one generation ended; it has no text."""

    request_id: str
    principal: str
    model: str
    version: int
    status: Status
    end_ms: int
    """In milliseconds since 1970."""
    assignment: Assignment = UNASSIGNED
    error_reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    duration_ms: float = 0.0
    device_ms: float = 0.0
    schema_valid: bool | None = None
    tools_valid: bool | None = None
    cost: float = 0.0
