"""How fields of HTTP requests are handled: honoured, ignored, refused or unknown."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field

from mlxmesh_gateway.http.schema import Harmless, Refused, Schema, read_request
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument


class Part(Schema):
    text: str
    images: Annotated[list[str] | None, Refused("the model is blind")] = None


class Request(Schema):
    model: str
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    parts: list[Part] | None = None
    user: Annotated[str | None, Harmless()] = None
    n: Annotated[int | None, Refused(unless=(1,))] = None


def test_known_and_harmless_fields_are_read() -> None:
    request, unknown = read_request(Request, {"model": "m", "temperature": 1, "user": "u", "n": 1})
    assert (request.model, request.temperature, unknown) == ("m", 1.0, [])


def test_unknown_fields_are_told_by_their_paths() -> None:
    body = {"model": "m", "a": 1, "parts": [{"text": "t"}, {"text": "t", "b": 2}]}
    assert read_request(Request, body)[1] == ["a", "parts.1.b"]


def test_names_that_no_header_can_hold_are_not_told() -> None:
    assert read_request(Request, {"model": "m", "a\r\nb": 1, "ü": 1})[1] == []


@pytest.mark.parametrize("value", [2, 0, -1])
def test_a_refused_field_is_an_error_that_names_it(value: int) -> None:
    with pytest.raises(FeatureNotSupported) as raised:
        read_request(Request, {"model": "m", "n": value})
    assert raised.value.field == "n"


def test_a_refused_field_is_found_inside_too() -> None:
    with pytest.raises(FeatureNotSupported, match="blind") as raised:
        read_request(Request, {"model": "m", "parts": [{"text": "", "images": ["x"]}]})
    assert raised.value.field == "parts.0.images"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "model"),
        ({"model": 1}, "model"),
        ({"model": "m", "temperature": 2.5}, "temperature"),
        ({"model": "m", "temperature": "1"}, "temperature"),
        ({"model": "m", "temperature": True}, "temperature"),
        ({"model": "m", "parts": [{"text": 5}]}, "parts.0.text"),
    ],
)
def test_illegal_values_name_the_field_and_quote_nothing(body: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read_request(Request, body)
    assert raised.value.field == field
    assert "2.5" not in raised.value.message


def test_unknown_fields_can_be_errors() -> None:
    with pytest.raises(InvalidArgument, match="there is no field a"):
        read_request(Request, {"model": "m", "a": 1}, refuse_unknown=True)
