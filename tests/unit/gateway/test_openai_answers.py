"""OpenAI's responses, chunks, errors, and the positions in its streams."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mlxmesh_gateway.http.idempotency import Position, position_of, request_id_of
from mlxmesh_gateway.http.statuses import http_status
from mlxmesh_gateway.openai.answers import Answer, ChatShape, Origin, Shape, TextShape, Usage
from mlxmesh_gateway.openai.errors import error_body
from mlxmesh_shared.errors import (
    InvalidArgument,
    MeshError,
    MessageTooLarge,
    ModelNotFound,
    QueueFull,
    ServiceUnavailable,
    Unauthenticated,
)

USAGE = Usage(prompt_tokens=7, cached_tokens=2, completion_tokens=3)


def answer(shape: Shape, model: str = "pocket:stable", *, include_usage: bool = False) -> Answer:
    origin = Origin(request_id="gen-1", created=1_795_000_000, model=model, version="pocket@3")
    return Answer(shape, origin, include_usage=include_usage)


def test_a_whole_chat() -> None:
    whole = answer(ChatShape()).whole("Hi\n", "stop", USAGE)
    read = ChatCompletion.model_validate(whole, strict=True)
    assert (read.id, read.created, read.model) == ("chatcmpl-gen-1", 1_795_000_000, "pocket:stable")
    assert read.system_fingerprint == "pocket@3"
    assert read.choices[0].message.content == "Hi\n"
    assert read.choices[0].finish_reason == "stop"
    assert read.usage is not None
    assert (read.usage.prompt_tokens, read.usage.completion_tokens) == (7, 3)
    assert read.usage.total_tokens == 10
    assert read.usage.prompt_tokens_details is not None
    assert read.usage.prompt_tokens_details.cached_tokens == 2


def test_a_whole_text() -> None:
    read = Completion.model_validate(answer(TextShape()).whole("Hi", "length", USAGE), strict=True)
    assert (read.id, read.object) == ("cmpl-gen-1", "text_completion")
    assert (read.choices[0].text, read.choices[0].finish_reason) == ("Hi", "length")


def test_the_chunks_of_a_chat() -> None:
    chunks = answer(ChatShape(), include_usage=True)
    *events, done = [*chunks.first(), chunks.delta("Hi"), *chunks.last("length", USAGE)]
    assert done == "[DONE]"
    read = [ChatCompletionChunk.model_validate_json(event, strict=True) for event in events]
    assert {(one.id, one.created, one.model, one.system_fingerprint) for one in read} == {
        ("chatcmpl-gen-1", 1_795_000_000, "pocket:stable", "pocket@3")
    }
    first, delta, end, usage = read
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert delta.choices[0].delta.content == "Hi"
    assert (end.choices[0].finish_reason, end.choices[0].delta.content) == ("length", None)
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.total_tokens == 10
    assert ['"usage":null' in event for event in events] == [True, True, True, False]


def test_usage_is_sent_only_where_it_was_asked_for() -> None:
    chunks = answer(TextShape())
    assert chunks.first() == []
    events = [chunks.delta("Hi"), *chunks.last("stop", USAGE)]
    assert len(events) == 3
    assert not any("usage" in event for event in events)
    assert Completion.model_validate_json(events[1]).choices[0].finish_reason == "stop"


@given(st.text(), st.text())
def test_any_text_is_in_its_chunk_on_one_line(text: str, model: str) -> None:
    for shape in (ChatShape(), TextShape()):
        chunk = answer(shape, model).delta(text)
        assert len(chunk.splitlines()) == 1
        assert chunk.isascii()
        choice = json.loads(chunk)["choices"][0]
        assert choice.get("text", choice.get("delta", {}).get("content")) == text


def test_a_model_that_looks_like_the_place_of_the_text() -> None:
    chunk = json.loads(answer(ChatShape(), 'TEXT"TEXT"').delta("Hi"))
    assert chunk["model"] == 'TEXT"TEXT"'
    assert chunk["choices"][0]["delta"]["content"] == "Hi"


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("sampling.temperature", "temperature"),
        ("generation.sampling.logit_bias", "logit_bias"),
        ("generation.max_tokens", "max_tokens"),
        ("chat.messages[1].content", "messages[1].content"),
        ("chat", "chat"),
        ("tokens.token_ids[3]", "prompt[3]"),
        ("tokens_of_another_name", "tokens_of_another_name"),
        ("stop", "stop"),
    ],
)
def test_errors_name_fields_as_openai_does(field: str, param: str) -> None:
    error = InvalidArgument(f"{field} must be something", field=field)
    body = error_body(error, http_status(error))
    assert body == {
        "error": {
            "message": f"{param} must be something",
            "type": "invalid_request_error",
            "param": param,
            "code": "invalid_field",
        }
    }


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ModelNotFound("x"), 404, "not_found_error"),
        (Unauthenticated("x"), 401, "authentication_error"),
        (QueueFull("x"), 429, "rate_limit_error"),
        (MessageTooLarge("x"), 413, "invalid_request_error"),
        (ServiceUnavailable("x"), 503, "server_error"),
    ],
)
def test_errors_have_openais_types(error: MeshError, status: int, kind: str) -> None:
    assert http_status(error) == status
    body = error_body(error, status)
    assert isinstance(body["error"], dict)
    assert (body["error"]["type"], body["error"]["param"]) == (kind, None)


def test_a_legal_key_is_the_request_id() -> None:
    assert request_id_of({}) == ""
    assert request_id_of({"idempotency-key": "job-7:a"}) == "job-7:a"


@pytest.mark.parametrize("key", ["two words", "ü", "x" * 129, "gen-0123456789abcdef"])
def test_any_other_key_stands_for_one(key: str) -> None:
    request_id = request_id_of({"idempotency-key": key})
    assert request_id == request_id_of({"idempotency-key": key})
    assert request_id.startswith("key-")
    assert len(request_id) == 68


def test_an_empty_key_is_an_error() -> None:
    with pytest.raises(InvalidArgument) as caught:
        request_id_of({"idempotency-key": ""})
    assert caught.value.field == "idempotency-key"


def test_positions_in_a_stream() -> None:
    key = {"idempotency-key": "k"}
    assert position_of(key) is None
    assert position_of({**key, "last-event-id": "0"}) == Position(0)
    assert position_of({**key, "last-event-id": "17"}) == Position(17)
    assert position_of({**key, "last-event-id": "17.2"}) == Position(17, 2)


@pytest.mark.parametrize("last", ["", "x", "-1", "1.", "1.0", "1.2.3", "1" * 19, "1 ", "١"])
def test_an_illegal_position(last: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        position_of({"idempotency-key": "k", "last-event-id": last})
    assert caught.value.field == "last-event-id"


def test_a_position_needs_the_key_of_its_stream() -> None:
    with pytest.raises(InvalidArgument, match="idempotency-key"):
        position_of({"last-event-id": "1"})
