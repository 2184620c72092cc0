"""Outcomes of generations, as generation instances report them."""

from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from mlxmesh_model.outcomes.outcome import Outcome, Status

ENDED = datetime(2026, 3, 1, tzinfo=UTC)


def outcome(request_id: str = "r-1", **changes: Any) -> Outcome:
    """A completed generation of 20 tokens; `subject` is the name of its subject."""
    subject = changes.pop("subject", None)
    values: dict[str, Any] = {
        "principal": "#ada",
        "model": "pocket",
        "version": 1,
        "status": Status.COMPLETED,
        "end_time": ENDED,
        "completion_tokens": 20,
        "ttft_ms": 100.0,
        "tpot_ms": 10.0,
        "cost": 0.5,
    }
    if subject is not None:
        values["subject_hash"] = blake2b(str(subject).encode(), digest_size=16).digest()
    return Outcome(request_id=request_id, **(values | changes))
