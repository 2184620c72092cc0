"""Tools, thinking and schemas of Anthropic: requests, blocks, events and resumed streams."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.anthropic import convert
from mlxmesh_gateway.anthropic.errors import error_body
from mlxmesh_gateway.anthropic.position import EventId, resumed_at
from mlxmesh_gateway.anthropic.schema import CountRequest, MessageRequest
from mlxmesh_gateway.anthropic.stream.convert import OpenBlock, StreamEvents
from mlxmesh_gateway.http.schema import read_request
from mlxmesh_shared.errors import ConstraintInvalid, InvalidArgument, MeshError

EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
STARTED = pb.Started(request_id="r-1", model="m", model_version=1, prompt_tokens=9)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL = {"name": "f", "description": "Does f.", "input_schema": SCHEMA}


def asked(**fields: Any) -> pb.GenerateRequest:
    body = {"model": "m", "max_tokens": 5, "messages": [turn("user", "Hi")], **fields}
    return convert.generate_request(read_request(MessageRequest, body)[0])


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def said(*messages: dict[str, Any]) -> list[pb.ChatMessage]:
    return list(asked(messages=list(messages)).chat.messages)


# Requests.


def test_tools_become_the_contracts() -> None:
    request = asked(tools=[TOOL, {"name": "g", "input_schema": {}, "strict": True}])
    first, second = request.tools
    assert (first.name, first.description, first.strict) == ("f", "Does f.", False)
    assert json.loads(first.parameters_json_schema) == SCHEMA
    assert (second.name, second.strict) == ("g", True)
    assert not request.HasField("tool_choice")
    assert not request.HasField("parallel_tool_calls")


@pytest.mark.parametrize(
    ("choice", "mode", "name"),
    [
        ({"type": "auto"}, pb.TOOL_MODE_AUTO, ""),
        ({"type": "none"}, pb.TOOL_MODE_NONE, ""),
        ({"type": "any"}, pb.TOOL_MODE_REQUIRED, ""),
        ({"type": "tool", "name": "f"}, pb.TOOL_MODE_REQUIRED, "f"),
    ],
)
@pytest.mark.parametrize("single", [False, True])
def test_choices_become_modes(choice: Any, mode: Any, name: str, single: bool) -> None:
    request = asked(tools=[TOOL], tool_choice={**choice, "disable_parallel_tool_use": single})
    assert (request.tool_choice.mode, request.tool_choice.name) == (mode, name)
    assert request.HasField("parallel_tool_calls") == single
    assert not request.parallel_tool_calls


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, pb.Reasoning(enabled=False)),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9}},
            pb.Reasoning(enabled=True, budget_tokens=9),
        ),
        ({"output_config": {"effort": "low"}}, pb.Reasoning(effort=pb.REASONING_EFFORT_LOW)),
        ({"output_config": {"effort": "medium"}}, pb.Reasoning(effort=pb.REASONING_EFFORT_MEDIUM)),
        ({"output_config": {"effort": "xhigh"}}, pb.Reasoning(effort=pb.REASONING_EFFORT_HIGH)),
        (
            {"output_config": {"effort": "max"}, "thinking": {"type": "disabled"}},
            pb.Reasoning(effort=pb.REASONING_EFFORT_HIGH, enabled=False),
        ),
    ],
)
def test_thinking_becomes_reasoning(fields: Any, expected: pb.Reasoning | None) -> None:
    request = asked(**fields)
    assert request.HasField("reasoning") == (expected is not None)
    assert expected is None or request.reasoning == expected


@pytest.mark.parametrize("place", ["output_config", "output_format"])
def test_a_schema_becomes_a_constraint(place: str) -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    request = asked(**{place: {"format": form} if place == "output_config" else form})
    assert request.WhichOneof("constraint") == "json_schema"
    assert json.loads(request.json_schema) == SCHEMA


def test_a_schema_beside_tools_that_are_not_called_is_legal() -> None:
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    request = asked(tools=[TOOL], tool_choice={"type": "none"}, output_config=form)
    assert request.json_schema
    assert request.tool_choice.mode == pb.TOOL_MODE_NONE


def test_options_that_anthropic_lacks() -> None:
    request = asked(session_id="s-1", labels={"team": "blue"})
    assert (request.session_id, dict(request.labels)) == ("s-1", {"team": "blue"})


def test_a_tools_round_trip_becomes_messages() -> None:
    used = {"type": "tool_use", "id": "c-1", "name": "f", "input": {"a": "ü"}}
    thought = {"type": "thinking", "thinking": "I need f.", "signature": "any"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    result = {"type": "tool_result", "tool_use_id": "c-1", "content": [text("1"), text("2")]}
    user, assistant, tool, last = said(
        turn("user", "Hi"),
        turn("assistant", [thought, hidden, text("Wait."), used]),
        turn("user", [result, text("Well?")]),
    )
    assert (user.content, assistant.content, assistant.reasoning_text) == (
        "Hi",
        "Wait.",
        "I need f.",
    )
    assert assistant.tool_calls == [pb.ToolCall(id="c-1", name="f", arguments='{"a": "ü"}')]
    assert (tool.role, tool.tool_call_id, tool.content) == (pb.ROLE_TOOL, "c-1", "1\n\n2")
    assert (last.role, last.content) == (pb.ROLE_USER, "Well?")


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({}, ""),
        ({"content": "no"}, "no"),
        ({"content": "no", "is_error": False}, "no"),
        ({"content": "no", "is_error": True}, "Error: no"),
    ],
)
def test_a_failed_call_is_told(fields: Any, content: str) -> None:
    (message,) = said(turn("user", [{"type": "tool_result", "tool_use_id": "c", **fields}]))
    assert (message.role, message.content) == (pb.ROLE_TOOL, content)


def test_results_stay_apart_and_turns_of_the_assistant_are_joined() -> None:
    def call(name: str) -> dict[str, Any]:
        return {"type": "tool_use", "id": name, "name": name, "input": {}}

    def result(name: str) -> dict[str, Any]:
        return {"type": "tool_result", "tool_use_id": name, "content": name}

    messages = said(
        turn("user", "Hi"),
        turn("assistant", [text("a"), call("f")]),
        turn("assistant", [call("g")]),
        turn("user", [result("f"), result("g")]),
    )
    assert [(one.role, one.content) for one in messages] == [
        (pb.ROLE_USER, "Hi"),
        (pb.ROLE_ASSISTANT, "a"),
        (pb.ROLE_TOOL, "f"),
        (pb.ROLE_TOOL, "g"),
    ]
    assert [one.name for one in messages[1].tool_calls] == ["f", "g"]


@pytest.mark.parametrize(
    ("role", "block", "named"),
    [
        ("user", {"type": "tool_use", "id": "c", "name": "f", "input": {}}, "type"),
        ("user", {"type": "thinking", "thinking": "a", "signature": ""}, "type"),
        ("user", {"type": "redacted_thinking", "data": "a"}, "type"),
        ("assistant", {"type": "tool_result", "tool_use_id": "c"}, "type"),
        ("system", {"type": "tool_result", "tool_use_id": "c"}, "type"),
        ("assistant", {"type": "tool_use", "name": "f", "input": {}}, "id"),
        ("assistant", {"type": "tool_use", "id": "c", "input": {}}, "name"),
        ("assistant", {"type": "tool_use", "id": "c", "name": "f"}, "input"),
        ("assistant", {"type": "thinking", "signature": "s"}, "thinking"),
        ("user", {"type": "tool_result", "content": "a"}, "tool_use_id"),
        ("user", {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text"}]}, ""),
    ],
)
def test_a_block_that_is_out_of_place_or_lacks_something_is_named(
    role: str, block: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        said(turn(role, [block]), turn("user", "Hi"))
    assert raised.value.field == f"messages.0.content.0.{named or 'content.0.text'}"


def test_counting_has_the_tools_and_the_thinking() -> None:
    body = {
        "model": "m",
        "messages": [turn("user", "Hi")],
        "tools": [TOOL],
        "tool_choice": {"type": "any"},
        "thinking": {"type": "disabled"},
    }
    counted = convert.count_request(read_request(CountRequest, body)[0])
    generated = asked(**body)
    assert counted.tools == generated.tools
    assert counted.reasoning == generated.reasoning


# Responses.

FINISHED = pb.Finished(
    finish_reason=pb.FINISH_REASON_TOOL_CALLS,
    stop_token_id=2,
    usage=pb.Usage(prompt_tokens=9, completion_tokens=30, reasoning_tokens=4),
)


def call(index: int, *, name: str = "", arguments: str = "") -> pb.ToolCall:
    call_id = f"c-{index}" if name else ""
    return pb.ToolCall(index=index, id=call_id, name=name, arguments=arguments)


DELTAS = [
    pb.Delta(reasoning_text="Let me "),
    pb.Delta(reasoning_text="see."),
    pb.Delta(token_ids=[5]),
    pb.Delta(reasoning_text=" Yes.", text="I "),
    pb.Delta(text="ask.", tool_calls=[call(0, name="f"), call(0, arguments='{"a": ')]),
    pb.Delta(tool_calls=[call(0, arguments='"x"}'), call(1, name="g", arguments="{")]),
    pb.Delta(text=" Done.", tool_calls=[call(1, arguments="}")]),
    pb.Delta(tool_calls=[call(2, name="h")]),
]
CONTENT = [
    {"type": "thinking", "thinking": "Let me see. Yes.", "signature": "mlxmesh"},
    {"type": "text", "text": "I ask."},
    {"type": "tool_use", "id": "c-0", "name": "f", "input": {"a": "x"}},
    {"type": "tool_use", "id": "c-1", "name": "g", "input": {}},
    {"type": "text", "text": " Done."},
    {"type": "tool_use", "id": "c-2", "name": "h", "input": {}},
]


def messages_of(deltas: list[pb.Delta], end: pb.Finished = FINISHED) -> list[pb.GenerateResponse]:
    middle = [pb.GenerateResponse(delta=delta) for delta in deltas]
    messages = [pb.GenerateResponse(started=STARTED), *middle, pb.GenerateResponse(finished=end)]
    for number, message in enumerate(messages, 1):
        message.sequence = number
    return messages


def parsed(events: list[tuple[str, str]]) -> list[Any]:
    """The events as the client's types, each of which has the name that it is sent with."""
    found = [(name, EVENTS.validate_python(json.loads(data))) for name, data in events]
    assert all(event.type == name for name, event in found)
    return [event for _, event in found]


def accumulated(events: list[Any]) -> Message:
    """What the official client makes of a stream; every event must fit to those before."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    is_open: set[int] = set()
    for event in events:
        if event.type == "content_block_start":
            assert not is_open
            assert event.index == len(snapshot.content)
            is_open.add(event.index)
        elif event.type == "content_block_delta":
            assert is_open == {event.index}
        elif event.type == "content_block_stop":
            is_open.remove(event.index)
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    assert not is_open
    return cast("Message", snapshot)


def streamed(
    deltas: list[pb.Delta], end: pb.Finished = FINISHED, **options: Any
) -> list[tuple[str, str]]:
    stream = StreamEvents(**options)
    return [event for message in messages_of(deltas, end) for event in stream.of(message)]


def content_of(message: Message) -> list[dict[str, Any]]:
    return [block.model_dump(exclude_none=True) for block in message.content]


def test_the_clients_accumulator_gets_every_block() -> None:
    message = accumulated(parsed(streamed(DELTAS)))
    assert content_of(message) == CONTENT
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens == 30
    assert message.usage.output_tokens_details is not None
    assert message.usage.output_tokens_details.thinking_tokens == 4


def test_thinking_can_be_omitted() -> None:
    events = parsed(streamed(DELTAS, show_thinking=False))
    assert not [event for event in events if "thinking_delta" in str(event)]
    hidden = {"type": "thinking", "thinking": "", "signature": "mlxmesh"}
    assert content_of(accumulated(events)) == [hidden, *CONTENT[1:]]


def test_thinking_that_is_cut_short_has_its_signature() -> None:
    end = pb.Finished(finish_reason=pb.FINISH_REASON_LENGTH)
    message = accumulated(parsed(streamed([pb.Delta(reasoning_text="Hm")], end)))
    assert content_of(message) == [{"type": "thinking", "thinking": "Hm", "signature": "mlxmesh"}]
    assert message.stop_reason == "max_tokens"


def test_an_output_without_anything_is_an_empty_text() -> None:
    end = pb.Finished(finish_reason=pb.FINISH_REASON_STOP)
    assert content_of(accumulated(parsed(streamed([], end)))) == [{"type": "text", "text": ""}]
    whole = convert.message_object(pb.CompleteResponse(started=STARTED, finished=end))
    assert content_of(Message.model_validate(whole)) == [{"type": "text", "text": ""}]


def test_a_whole_response_has_the_blocks_in_order() -> None:
    response = pb.CompleteResponse(
        started=STARTED,
        reasoning_text="Hm.",
        text="I ask.",
        tool_calls=[call(0, name="f", arguments='{"a": "x"}'), call(1, name="g")],
        finished=FINISHED,
    )
    message = Message.model_validate(convert.message_object(response))
    assert content_of(message) == [
        {"type": "thinking", "thinking": "Hm.", "signature": "mlxmesh"},
        {"type": "text", "text": "I ask."},
        {"type": "tool_use", "id": "c-0", "name": "f", "input": {"a": "x"}},
        {"type": "tool_use", "id": "c-1", "name": "g", "input": {}},
    ]
    assert message.stop_reason == "tool_use"
    hidden = Message.model_validate(convert.message_object(response, show_thinking=False))
    assert content_of(hidden)[0]["thinking"] == ""
    response.ClearField("text")
    kinds = [
        one["type"] for one in content_of(Message.model_validate(convert.message_object(response)))
    ]
    assert kinds == ["thinking", "tool_use", "tool_use"]


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "7", "[" * 100_000])
def test_arguments_that_are_no_object_are_told(arguments: str) -> None:
    response = pb.CompleteResponse(
        started=STARTED, tool_calls=[call(0, name="f", arguments=arguments)], finished=FINISHED
    )
    message = Message.model_validate(convert.message_object(response))
    assert content_of(message)[0]["input"] == {"INVALID_JSON": arguments}


# Resumed streams.


def numbered(
    messages: list[pb.GenerateResponse], start: EventId
) -> list[tuple[str, tuple[str, str]]]:
    """The events after a position with their ids, as the handler numbers them."""
    stream, skip = StreamEvents(start.open_block), start.events
    found: list[tuple[str, tuple[str, str]]] = []
    for message in messages[start.sequence :]:
        before = stream.open_block
        events = stream.of(message)
        whole = EventId(message.sequence, open_block=stream.open_block)
        for number, event in enumerate(events, 1):
            part = EventId(message.sequence - 1, number, before)
            if number > skip:
                found.append((str(whole if number == len(events) else part), event))
        skip = 0
    return found


def position(event_id: str) -> EventId:
    found = resumed_at({"last-event-id": event_id, "idempotency-key": "k"})
    assert found is not None
    assert str(found) == event_id
    return found


pieces = st.one_of(
    st.builds(pb.Delta, reasoning_text=st.text(max_size=2), text=st.text(max_size=2)),
    st.sampled_from(DELTAS),
)


@given(st.lists(pieces, max_size=6))
def test_a_stream_resumes_after_any_event(deltas: list[pb.Delta]) -> None:
    messages = messages_of([delta for delta in deltas if not continues_a_call(delta)])
    whole = numbered(messages, EventId(0))
    accumulated(parsed([event for _, event in whole]))
    for number, (event_id, _) in enumerate(whole, 1):
        assert numbered(messages, position(event_id)) == whole[number:]


def continues_a_call(delta: pb.Delta) -> bool:
    return bool(delta.tool_calls) and not delta.tool_calls[0].name


def test_a_stream_of_many_calls_resumes_too() -> None:
    calls = [call(number, name="f", arguments="{}") for number in range(20)]
    messages = messages_of([*DELTAS, pb.Delta(tool_calls=calls)])
    whole = numbered(messages, EventId(0))
    for number, (event_id, _) in enumerate(whole, 1):
        assert numbered(messages, position(event_id)) == whole[number:]


@pytest.mark.parametrize("event_id", ["1-", "1-0x", "1-t", "-0t", "1-0t-0t", "1.0-0t", "x-0t", "x"])
def test_an_id_that_no_event_has_is_refused(event_id: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        resumed_at({"last-event-id": event_id, "idempotency-key": "k"})
    assert raised.value.field == "last-event-id"


def test_a_position_needs_its_key() -> None:
    with pytest.raises(InvalidArgument, match="idempotency-key"):
        resumed_at({"last-event-id": "1-0t"})
    assert resumed_at({}) is None
    assert resumed_at({"last-event-id": "3-12c", "idempotency-key": "k"}) == EventId(
        3, 0, OpenBlock(12, "tool_use")
    )
    for event_id in ("3@1f0c", "3.1@1f0c", "3@1f0c-12c", "3.1@1f0c-12c"):
        assert position(event_id).numbering == 0x1F0C


# Errors.


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("tools[3].parameters_json_schema", "tools.3.input_schema"),
        ("generation.tools[3].name", "tools.3.name"),
        ("tool_choice.name", "tool_choice.name"),
        ("parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
        ("reasoning.enabled", "thinking.type"),
        ("reasoning", "thinking.type"),
        ("reasoning.budget_tokens", "thinking.budget_tokens"),
        ("reasoning.effort", "output_config.effort"),
        ("json_schema", "output_config.format.schema"),
        ("json_schema.properties.a", "output_config.format.schema.properties.a"),
        ("stop[2]", "stop_sequences[2]"),
        ("stop_token_ids", "stop_token_ids"),
        ("sampling.top_k", "top_k"),
        ("chat.messages[2].tool_calls", "messages[2].tool_calls"),
        ("max_tokens", "max_tokens"),
    ],
)
def test_errors_name_anthropics_field(field: str, named: str) -> None:
    error: MeshError = ConstraintInvalid(f"{field} is wrong", field=field)
    body: Any = error_body(error, 400, "req_1")
    assert body["error"]["message"] == f"{named} is wrong"
