"""The lines of a batch's files of results and of errors. Pure.

Source: OpenAI's guide to the Batch API, and the class BatchRequestOutput of its API reference.
"""

import hashlib
import json
from dataclasses import dataclass

from mlxmesh_jobs.domain.jobs import FailureFacts


@dataclass(frozen=True, kw_only=True)
class RequestOutcome:
    """What became of one request."""

    number: int
    custom_id: str
    status_code: int = 0
    """The HTTP status; 0 without a response."""
    request_id: str = ""
    body_json: str = ""
    failure: FailureFacts | None = None
    """Why there is no response."""

    @property
    def succeeded(self) -> bool:
        """Whether it belongs to the file of results."""
        return 200 <= self.status_code < 300


def line_of(batch_id: str, outcome: RequestOutcome) -> bytes:
    """The line of a request, the same each time."""
    digest = hashlib.sha256(f"{batch_id}:{outcome.number}".encode()).hexdigest()
    fields = {
        "id": _encoded(f"batch_req_{digest[:24]}"),
        "custom_id": _encoded(outcome.custom_id),
        "response": _response(outcome),
        "error": _error(outcome.failure),
    }
    return _object(fields).encode() + b"\n"


def _response(outcome: RequestOutcome) -> str:
    if not outcome.status_code:
        return "null"
    # The body is JSON already: to parse it would cost time, and might change numbers. A line break
    # in JSON is white space, since texts have none.
    body = outcome.body_json.replace("\r", " ").replace("\n", " ")
    fields = {
        "status_code": str(outcome.status_code),
        "request_id": _encoded(outcome.request_id),
        "body": body or "null",
    }
    return _object(fields)


def _error(failure: FailureFacts | None) -> str:
    if failure is None:
        return "null"
    fields = {"code": _encoded(failure.reason.lower()), "message": _encoded(failure.message)}
    return _object(fields)


def _object(fields: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"


def _encoded(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
