"""What the lines of a batch's input file must be. Pure.

Source: OpenAI's guide to the Batch API. Where it has a code for an error, that is used.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from mlxmesh_jobs.batches.lines import MAX_LINE_BYTES, Line
from mlxmesh_shared.model_patterns import allows

MAX_REQUESTS = 50_000
MAX_ERRORS = 100
MAX_CUSTOM_ID = 512
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class InputError:
    """What is wrong with a line, as in BatchError."""

    line: int
    code: str
    message: str


class _Wrong(Exception):
    """A line that is no request."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What every line must be for."""

    endpoint: str
    models: tuple[str, ...] = ()
    """Patterns of the models that the owner may use; empty for all."""


@dataclass
class Checker:
    """Checks the lines of one file, and collects what is wrong with them."""

    expected: Expected
    errors: list[InputError] = field(default_factory=list[InputError])
    """At most MAX_ERRORS."""
    requests: int = 0
    _seen: set[bytes] = field(default_factory=set[bytes])

    @property
    def is_done(self) -> bool:
        """Whether nothing that follows can change the result."""
        return len(self.errors) >= MAX_ERRORS or self.requests > MAX_REQUESTS

    def check(self, lines: Iterable[Line]) -> None:
        """Checks the next lines."""
        for line in lines:
            if self.is_done:
                return
            self.requests += 1
            if self.requests > MAX_REQUESTS:
                message = f"a batch has at most {MAX_REQUESTS} requests"
                self._add(InputError(line.number, "too_many_requests", message))
                return
            try:
                self._check_unique(read_request(line, self.expected).custom_id)
            except _Wrong as wrong:
                self._add(InputError(line.number, wrong.code, wrong.message))

    def finish(self) -> None:
        """Checks the file as a whole."""
        if not self.requests:
            self._add(InputError(0, "empty_file", "the file has no requests"))

    def _check_unique(self, custom_id: str) -> None:
        # A digest takes less room than the id, of which there may be 50,000.
        digest = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
        if digest in self._seen:
            raise _Wrong(
                "duplicate_custom_id", f"custom_id {custom_id} is that of an earlier line too"
            )
        self._seen.add(digest)

    def _add(self, error: InputError) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(error)


def new_requests(
    lines: Iterable[Line], expected: Expected, *, after: int
) -> Iterator["NumberedRequest"]:
    """The requests of lines that were checked before; after: the number of the last one before."""
    for number, line in enumerate(lines, after + 1):
        found = read_request(line, expected)
        yield NumberedRequest(number, found.custom_id, found.body)


@dataclass(frozen=True, slots=True)
class NumberedRequest:
    """A request, and its place in the file, from 1."""

    number: int
    custom_id: str
    body: bytes
    """JSON."""


@dataclass(frozen=True, slots=True)
class Found:
    """The request of a line."""

    custom_id: str
    body: bytes
    """JSON."""


def read_request(line: Line, expected: Expected) -> Found:
    """The request of a line. Raises: _Wrong."""
    found = _parsed(line)
    custom_id = _text(found, "custom_id")
    if not custom_id or len(custom_id) > MAX_CUSTOM_ID or _CONTROL.search(custom_id):
        raise _Wrong(
            "invalid_custom_id",
            f"custom_id must be 1 to {MAX_CUSTOM_ID} characters without control characters",
        )
    if _text(found, "method") != "POST":
        raise _Wrong("invalid_method", "method must be POST")
    if _text(found, "url") != expected.endpoint:
        raise _Wrong("mismatched_url", f"url must be {expected.endpoint}, that of the batch")
    body = found.get("body")
    if not isinstance(body, dict):
        raise _Wrong(*_missing("body", body, "a JSON object"))
    asked = cast("dict[str, Any]", body)
    model = _text(asked, "model", "body.model")
    if not allows(expected.models, model):
        may_use = ", ".join(expected.models)
        raise _Wrong("model_not_allowed", f"this key may not use the model; it may use {may_use}")
    return Found(custom_id, _encoded(asked))


def _parsed(line: Line) -> dict[str, Any]:
    if line.too_long:
        raise _Wrong("line_too_long", f"a line has at most {MAX_LINE_BYTES} bytes")
    text = line.text.removeprefix(_BOM) if line.number == 1 else line.text
    try:
        value = json.loads(text.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise _Wrong("invalid_utf8", "the line is not valid UTF-8") from None
    except (ValueError, RecursionError):
        raise _Wrong("invalid_json_line", "the line is not valid JSON") from None
    if not isinstance(value, dict):
        raise _Wrong("invalid_json_line", "the line is not a JSON object")
    return cast("dict[str, Any]", value)


def _text(found: dict[str, Any], name: str, path: str = "") -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise _Wrong(*_missing(path or name, value, "a text"))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Wrong("invalid_utf8", f"{path or name} has half of a surrogate pair") from None
    return value


def _missing(name: str, value: object, what: str) -> tuple[str, str]:
    if value is None:
        return "missing_required_parameter", f"{name} is required"
    return "invalid_type", f"{name} must be {what}"


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair has no encoding.
        raise _Wrong("invalid_utf8", "body has half of a surrogate pair") from None


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")
