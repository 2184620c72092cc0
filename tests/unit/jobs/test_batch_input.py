"""What the lines of an input file must be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_jobs.batches.input import (
    MAX_ERRORS,
    MAX_REQUESTS,
    Checker,
    Expected,
    InputError,
    new_requests,
)
from mlxmesh_jobs.batches.lines import Line

CHAT = "/v1/chat/completions"
EXPECTED = Expected(endpoint=CHAT, models=("pocket*",))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Half of a surrogate pair is no text.
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


def request(custom_id: Any = "a", **changes: Any) -> dict[str, Any]:
    whole = {
        "custom_id": custom_id,
        "method": "POST",
        "url": CHAT,
        "body": {"model": "pocket", "messages": []},
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not ...}


def line(value: Any, number: int = 1) -> Line:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Line(number, 0, text)


def errors_of(*lines: Line) -> list[InputError]:
    checker = Checker(EXPECTED)
    checker.check(lines)
    checker.finish()
    return checker.errors


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON))
def test_a_legal_line_is_a_request_with_its_body_unchanged(fields: dict[str, Any]) -> None:
    body = {**fields, "model": "pocket@3"}
    legal = line(request("x-1", body=body, extra=1))

    assert errors_of(legal) == []
    [found] = new_requests([legal], EXPECTED, after=6)
    assert (found.number, found.custom_id) == (7, "x-1")
    assert json.loads(found.body) == body


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"[1]", "invalid_json_line"),
        (b'{"a": NaN}', "invalid_json_line"),
        (b"[" * 100_000, "invalid_json_line"),
        (b'{"custom_id": "\xff"}', "invalid_utf8"),
        (request(...), "missing_required_parameter"),
        (request(None), "missing_required_parameter"),
        (request(5), "invalid_type"),
        (request(""), "invalid_custom_id"),
        (request("x" * 513), "invalid_custom_id"),
        (request("a\0b"), "invalid_custom_id"),
        (request("\ud800"), "invalid_utf8"),
        (request(method="GET"), "invalid_method"),
        (request(method=...), "missing_required_parameter"),
        (request(url="/v1/embeddings"), "mismatched_url"),
        (request(body=...), "missing_required_parameter"),
        (request(body="text"), "invalid_type"),
        (request(body={}), "missing_required_parameter"),
        (request(body={"model": 5}), "invalid_type"),
        (request(body={"model": "other"}), "model_not_allowed"),
        (request(body={"model": "pocket", "prompt": "\ud800"}), "invalid_utf8"),
    ],
)
def test_each_kind_of_mistake_has_a_code(text: Any, code: str) -> None:
    assert [(one.line, one.code) for one in errors_of(line(text, 4))] == [(4, code)]


def test_a_line_that_is_too_long_is_one_error() -> None:
    [error] = errors_of(Line(3, 0, b"{", too_long=True))

    assert (error.line, error.code) == (3, "line_too_long")


def test_a_custom_id_that_is_repeated_is_an_error_where_it_is_repeated() -> None:
    lines = [line(request(name), number) for number, name in enumerate("abca", 1)]

    assert [(one.line, one.code) for one in errors_of(*lines)] == [(4, "duplicate_custom_id")]


def test_a_mark_of_the_byte_order_begins_a_file_only() -> None:
    marked = b"\xef\xbb\xbf" + json.dumps(request()).encode()

    assert errors_of(line(marked)) == []
    assert [one.code for one in errors_of(line(marked, 2))] == ["invalid_json_line"]


def test_an_empty_file_is_an_error() -> None:
    assert [(one.line, one.code) for one in errors_of()] == [(0, "empty_file")]


def test_errors_of_all_lines_are_collected_up_to_a_hundred() -> None:
    some = [line(request(str(number), method="PUT"), number) for number in range(1, 4)]
    many = [line(b"{", number) for number in range(1, 300)]

    assert [one.line for one in errors_of(*some)] == [1, 2, 3]
    assert [one.line for one in errors_of(*many)] == [*range(1, MAX_ERRORS + 1)]


def test_a_file_has_at_most_fifty_thousand_requests() -> None:
    lines = [line(request(str(number)), number) for number in range(1, MAX_REQUESTS + 2)]

    assert errors_of(*lines[:-1]) == []
    assert [(one.line, one.code) for one in errors_of(*lines)] == [
        (MAX_REQUESTS + 1, "too_many_requests")
    ]


def test_errors_quote_no_body() -> None:
    secret = request(body={"model": "other", "prompt": "secret"})

    assert "secret" not in errors_of(line(secret))[0].message
