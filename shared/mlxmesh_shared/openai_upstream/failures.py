"""What an upstream's refusals mean here. Pure.

Source: OpenAI's API reference, "Error codes"; RFC 9110, section 10.2.3 for Retry-After.
"""

import json
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, cast

from mlxmesh_shared.errors import (
    ContextTooLong,
    InvalidArgument,
    MeshError,
    TooManyRequests,
    UpstreamRefused,
    UpstreamUnavailable,
)

MAX_MESSAGE_LENGTH = 500
MAX_RETRY_DELAY_S = 3600.0
DEFAULT_RETRY_DELAY_S = 1.0

_REQUEST_STATUSES = frozenset({400, 413, 415, 422})
_BUSY_STATUSES = frozenset({408, 425})
_TOO_LONG = "context_length_exceeded"


def error_of_status(
    status: int, retry_after: str, body: bytes, *, name: str, secret: str
) -> MeshError:
    """The error for a response that is not 200.

    name: of the upstream, for messages. secret: its key, which no message may contain.
    """
    said, code = said_by(parsed_object(body), secret)
    upstream = f"the upstream of {name}"
    if status == 429:
        return TooManyRequests(
            f"{upstream} takes no more requests at present{said}",
            retry_delay_s=retry_delay_s(retry_after),
        )
    if status in _REQUEST_STATUSES:
        kind = ContextTooLong if code == _TOO_LONG else InvalidArgument
        return kind(f"{upstream} refused the request (status {status}){said}")
    if status in (401, 403):
        # It may quote a part of the key.
        return UpstreamRefused(
            f"{upstream} refused its key (status {status}); check the key", field="key"
        )
    if 300 <= status < 400:
        return UpstreamRefused(
            f"{upstream} redirects to another address, which is not followed; register that one",
            field="base_url",
        )
    if 400 <= status < 500 and status not in _BUSY_STATUSES:
        return UpstreamRefused(
            f"{upstream} refused the request (status {status}){said}; check its URL and model"
        )
    return UpstreamUnavailable(
        f"{upstream} failed (status {status}){said}",
        retry_delay_s=retry_delay_s(retry_after) if retry_after else None,
    )


def error_of_event(event: Mapping[str, Any], *, name: str, secret: str) -> MeshError | None:
    """The error that an event of a stream reports; None if it reports none."""
    if not event.get("error"):
        return None
    said, code = said_by(event, secret)
    message = f"the upstream of {name} failed within its answer{said}"
    if code == _TOO_LONG:
        return ContextTooLong(message)
    return UpstreamUnavailable(message)


def said_by(body: Mapping[str, Any], secret: str) -> tuple[str, str]:
    """The message of an error body, to be appended to ours, and its code."""
    error: object = body.get("error")
    if not isinstance(error, dict):
        # Some servers have the message at the top.
        error = {"message": error if isinstance(error, str) else body.get("message")}
    fields = cast("dict[str, Any]", error)
    text, code = fields.get("message"), fields.get("code")
    if not isinstance(text, str) or not text:
        return "", str(code or "")
    if secret:
        text = text.replace(secret, "***")
    text = "".join(each if each.isprintable() else " " for each in text)
    return f": {text[:MAX_MESSAGE_LENGTH]}", str(code or "")


def retry_delay_s(retry_after: str, now_s: Callable[[], float] = time.time) -> float:
    """Seconds from a Retry-After header, which is a number or a date."""
    try:
        delay_s = float(retry_after)
    except ValueError:
        try:
            delay_s = parsedate_to_datetime(retry_after).timestamp() - now_s()
        except (TypeError, ValueError, OverflowError):
            return DEFAULT_RETRY_DELAY_S
    if not delay_s >= 0:  # NaN too
        return 0.0
    return min(MAX_RETRY_DELAY_S, delay_s)


def parsed_object(body: bytes | str) -> Mapping[str, Any]:
    """The JSON object; an empty one for anything else."""
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("Mapping[str, Any]", parsed) if isinstance(parsed, dict) else {}
