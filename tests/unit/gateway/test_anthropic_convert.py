"""Anthropic's requests as the contract's, and the contract's messages as Anthropic's events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message, ModelInfo, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh.model.v1.adapter_pb2 import Adapter
from mlxmesh.model.v1.model_pb2 import Model, ModelVersion
from mlxmesh_gateway.anthropic import convert
from mlxmesh_gateway.anthropic.errors import ERRORS
from mlxmesh_gateway.anthropic.schema import CountRequest, MessageRequest
from mlxmesh_gateway.anthropic.stream.convert import StreamEvents
from mlxmesh_gateway.http.schema import read_request
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    FeatureNotSupported,
    GenerationCancelled,
    Internal,
    InvalidArgument,
    MeshError,
    MessageTooLarge,
    ModelNotFound,
    NoReplica,
    PermissionDenied,
    QueueFull,
    Unauthenticated,
)

EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
STARTED = pb.Started(
    request_id="r-1", model="pocket", model_version=2, prompt_tokens=9, cached_tokens=4
)
USAGE = pb.Usage(prompt_tokens=9, cached_tokens=6, completion_tokens=3)


def asked(**fields: Any) -> pb.GenerateRequest:
    body = {"model": "m", "max_tokens": 5, "messages": [turn("user", "Hi")], **fields}
    return convert.generate_request(read_request(MessageRequest, body)[0])


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def turns(request: pb.GenerateRequest | pb.CountTokensRequest) -> list[tuple[str, str]]:
    return [(pb.Role.Name(one.role)[5:], one.content) for one in request.chat.messages]


def test_the_default_temperature_is_anthropics() -> None:
    assert asked().sampling.temperature == 1
    assert asked(temperature=0).sampling.temperature == 0
    assert asked(temperature=0).sampling.HasField("temperature")


def test_options_keep_their_values_and_others_stay_unset() -> None:
    options = {"top_k": 4, "seed": 2**64 - 1, "presence_penalty": 0.5, "min_p": 0.25}
    request = asked(
        **options, stop_sequences=["a", "b"], stop_token_ids=[7], ignore_eos=True, priority=-3
    )
    assert {name: getattr(request.sampling, name) for name in options} == options
    assert (list(request.stop), list(request.stop_token_ids)) == (["a", "b"], [7])
    assert (request.max_tokens, request.ignore_eos, request.priority) == (5, True, -3)
    least = asked()
    assert [field.name for field, _ in least.sampling.ListFields()] == ["temperature"]
    assert {field.name for field, _ in least.ListFields()} == {
        "model",
        "chat",
        "max_tokens",
        "sampling",
    }


def test_texts_are_joined_by_blank_lines() -> None:
    messages = [
        turn("user", [text("a"), text("b")]),
        turn("user", "c"),
        turn("assistant", "d"),
        turn("user", ""),
    ]
    request = asked(system=[text("s"), text("t")], messages=messages)
    expected = [("SYSTEM", "s\n\nt"), ("USER", "a\n\nb\n\nc"), ("ASSISTANT", "d"), ("USER", "")]
    assert turns(request) == expected


@pytest.mark.parametrize("system", [None, "", [], [text("")]])
def test_an_empty_system_prompt_is_none(system: object) -> None:
    assert turns(asked(system=system)) == [("USER", "Hi")]


def test_counting_renders_as_generating_does() -> None:
    messages = [turn("user", [text("a"), text("b")]), turn("system", "s"), turn("user", "c")]
    body = {"model": "m", "system": "Be brief", "messages": messages}
    counted = convert.count_request(read_request(CountRequest, body)[0])
    assert counted.chat == asked(**body).chat


def test_an_answer_that_is_begun_cannot_be_continued() -> None:
    with pytest.raises(FeatureNotSupported) as raised:
        asked(messages=[turn("user", "a"), turn("assistant", "b")])
    assert raised.value.field == "messages.1.role"


def test_a_block_without_its_text_is_named() -> None:
    with pytest.raises(InvalidArgument) as raised:
        asked(messages=[turn("user", [text("a"), {"type": "text"}])])
    assert raised.value.field == "messages.0.content.1.text"


def finished(reason: Any, **stopped_by: Any) -> pb.Finished:
    return pb.Finished(finish_reason=reason, usage=USAGE, **stopped_by)


def stream(*texts: str, end: pb.Finished) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream, each one parsed by the official client's types."""
    messages = [
        pb.GenerateResponse(started=STARTED),
        pb.GenerateResponse(prefill_progress=pb.PrefillProgress(total_tokens=1)),
        *(pb.GenerateResponse(delta=pb.Delta(text=each)) for each in texts),
        pb.GenerateResponse(finished=end),
    ]
    stream = StreamEvents()
    events = [event for message in messages for event in stream.of(message)]
    parsed = [(name, json.loads(data)) for name, data in events]
    for name, data in parsed:
        assert EVENTS.validate_python(data).type == name
    return parsed


def test_a_stream_has_the_events_in_order() -> None:
    events = stream("a", "", "b", end=finished(pb.FINISH_REASON_STOP, stop_token_id=2))
    assert [name for name, _ in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, end = events[0][1]["message"], events[-2][1]
    assert (start["id"], start["model"], start["content"]) == ("msg_r-1", "pocket@2", [])
    assert (start["usage"]["input_tokens"], start["usage"]["cache_read_input_tokens"]) == (5, 4)
    assert end["usage"] == {
        "input_tokens": 3,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 6,
        "output_tokens": 3,
        "output_tokens_details": {"thinking_tokens": 0},
    }


@pytest.mark.parametrize(
    ("end", "reason", "sequence"),
    [
        (finished(pb.FINISH_REASON_STOP, stop_token_id=2), "end_turn", None),
        (finished(pb.FINISH_REASON_STOP, stop_text="."), "stop_sequence", "."),
        (finished(pb.FINISH_REASON_LENGTH), "max_tokens", None),
    ],
)
def test_reasons_are_translated(end: pb.Finished, reason: str, sequence: str | None) -> None:
    delta = stream("a", end=end)[-2][1]["delta"]
    assert delta == {"stop_reason": reason, "stop_sequence": sequence}
    response = pb.CompleteResponse(started=STARTED, text="a", finished=end)
    message = Message.model_validate(convert.message_object(response))
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)
    assert message.content[0].type == "text"
    assert message.content[0].text == "a"


def test_a_cancelled_generation_is_an_error() -> None:
    end = finished(pb.FINISH_REASON_CANCELLED)
    with pytest.raises(GenerationCancelled):
        StreamEvents().of(pb.GenerateResponse(finished=end))
    with pytest.raises(GenerationCancelled):
        convert.message_object(pb.CompleteResponse(started=STARTED, finished=end))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_arrives_unchanged_and_in_one_line(value: str) -> None:
    _, (_, data) = StreamEvents().of(pb.GenerateResponse(delta=pb.Delta(text=value)))
    assert json.loads(data)["delta"] == {"type": "text_delta", "text": value}
    # As str.splitlines, which some clients split events with, knows many ends of lines.
    assert data.splitlines() == [data]


def test_a_model_is_described_as_the_version_that_is_meant() -> None:
    versions = [
        ModelVersion(version=one, context_tokens=one * 100, create_time=Timestamp(seconds=one))
        for one in (1, 2)
    ]
    model = Model(name="m", versions=versions, default_version=2, aliases={"old": 1, "default": 2})
    assert convert.references(model) == ["m", "m:old"]
    adapted = Model(name="m", aliases={"old": 1}, adapters=[Adapter(name="french")])
    assert convert.references(adapted) == ["m", "m:old", "m:french"]
    shown = {
        reference: ModelInfo.model_validate(convert.model_object(model, reference))
        for reference in ("m", "m@1", "m:old")
    }
    assert [one.max_input_tokens for one in shown.values()] == [200, 100, 100]
    assert [one.created_at.timestamp() for one in shown.values()] == [2, 1, 1]
    assert [*shown] == [one.id for one in shown.values()]


def test_a_model_without_its_version_is_as_old_as_can_be() -> None:
    shown = ModelInfo.model_validate(convert.model_object(Model(name="m"), "m"))
    assert (shown.created_at.timestamp(), shown.max_tokens) == (0, None)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidArgument("a"), 400, "invalid_request_error"),
        (FeatureNotSupported("a"), 400, "invalid_request_error"),
        (GenerationCancelled("a"), 400, "invalid_request_error"),
        (Unauthenticated("a"), 401, "authentication_error"),
        (PermissionDenied("a"), 403, "permission_error"),
        (ModelNotFound("a"), 404, "not_found_error"),
        (MessageTooLarge("a"), 413, "request_too_large"),
        (QueueFull("a"), 429, "rate_limit_error"),
        (Internal("a"), 500, "api_error"),
        (DeadlineExceeded("a"), 504, "timeout_error"),
        (NoReplica("a"), 529, "overloaded_error"),
    ],
)
def test_errors_have_anthropics_types(error: MeshError, status: int, kind: str) -> None:
    assert ERRORS.status(error) == status
    body: Any = ERRORS.body(error, status, "req_1")
    assert body["error"] == {"type": kind, "message": "a"}
    if kind != "request_too_large":  # the client's types lack it
        assert ErrorResponse.model_validate(body).request_id == "req_1"
