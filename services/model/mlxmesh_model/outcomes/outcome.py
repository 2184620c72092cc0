"""How one generation ended. Pure."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Status(StrEnum):
    """How a generation ended; the values are stored."""

    COMPLETED = "completed"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one generation ended. The contract documents the fields."""

    request_id: str
    principal: str
    model: str
    version: int
    status: Status
    end_time: datetime
    arm: str = ""
    rollout_id: str = ""
    experiment_id: str = ""
    subject_hash: bytes = b""
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

    @property
    def failed(self) -> bool:
        """Whether it failed for a reason of the mesh."""
        return self.status is Status.FAILED
