"""What never changes of a job, and small parts of it, as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlxmesh_jobs.domain.jobs import FailureFacts, NewJob, Owner, Progress
from mlxmesh_jobs.domain.recovery import RetryPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class Details:
    """What a job was submitted with, without its request."""

    owner: Owner
    retry: RetryPolicy
    labels: Mapping[str, str]
    summary: str
    attempt_timeout_s: int
    retention_s: int
    custom_id: str = ""


def details_of(job: NewJob, custom_id: str = "") -> Details:
    """Those of a new job."""
    return Details(
        owner=job.owner,
        retry=job.retry,
        labels=job.labels,
        summary=job.summary,
        attempt_timeout_s=job.attempt_timeout_s,
        retention_s=job.retention_s,
        custom_id=custom_id,
    )


def encode_details(details: Details) -> str:
    """As stored."""
    return json.dumps(
        {
            "owner": vars(details.owner),
            "retry": vars(details.retry),
            "labels": dict(details.labels),
            "summary": details.summary,
            "attempt_timeout_s": details.attempt_timeout_s,
            "retention_s": details.retention_s,
            "custom_id": details.custom_id,
        }
    )


def decode_details(text: str) -> Details:
    """As it was before it was stored."""
    stored: dict[str, Any] = json.loads(text)
    stored["owner"] = _owner(stored["owner"])
    stored["retry"] = RetryPolicy(**stored["retry"])
    return Details(**stored)


def encode_owner(owner: Owner) -> str:
    """As stored."""
    return json.dumps(vars(owner))


def decode_owner(text: str) -> Owner:
    """As it was before it was stored."""
    return _owner(json.loads(text))


def encode_failure(failure: FailureFacts | None) -> str:
    """As stored; empty for none."""
    return "" if failure is None else json.dumps(vars(failure))


def decode_failure(text: str) -> FailureFacts | None:
    """As it was before it was stored."""
    return FailureFacts(**json.loads(text)) if text else None


def encode_progress(progress: Progress) -> str:
    """As stored."""
    return json.dumps(vars(progress))


def decode_progress(text: str) -> Progress | None:
    """As it was before it was stored; None for the empty text."""
    return Progress(**json.loads(text)) if text else None


def _owner(stored: dict[str, Any]) -> Owner:
    fields: dict[str, Any] = {**stored, "models": tuple(stored["models"])}
    return Owner(**fields)
