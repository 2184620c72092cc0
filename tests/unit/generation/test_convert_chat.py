"""Conversations, tools, reasoning and constraints; what cannot be served names its field."""

from typing import Any

import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_generation import convert
from mlxmesh_generation.domain.request import (
    Chat,
    ChatTurn,
    LogprobOptions,
    OutputConstraint,
    PastCall,
    Reasoning,
    Tool,
    ToolMode,
    Tools,
)
from mlxmesh_shared.errors import InvalidArgument

SCHEMA = '{"type": "object"}'
USER = g.ChatMessage(role=g.ROLE_USER, content="hi")
WEATHER = g.Tool(name="weather", description="d", parameters_json_schema=SCHEMA, strict=True)


def asked(*messages: g.ChatMessage, **fields: Any) -> g.GenerateRequest:
    chat = g.ChatInput(messages=messages or [USER])
    return g.GenerateRequest(model="pocket", chat=chat, **fields)


def chat_of(message: g.GenerateRequest | g.CountTokensRequest) -> Chat:
    source = convert.prompt_input(message)
    assert isinstance(source, Chat)
    return source


def test_a_conversation_with_calls_and_their_results() -> None:
    chat = chat_of(
        asked(
            g.ChatMessage(
                role=g.ROLE_USER,
                parts=[g.ContentPart(text="What "), g.ContentPart(text="weather?")],
            ),
            g.ChatMessage(
                role=g.ROLE_ASSISTANT,
                reasoning_text="I should look.",
                tool_calls=[
                    g.ToolCall(id="c1", name="weather", arguments='{"city": "Zürich"}'),
                    g.ToolCall(id="c2", name="time"),
                ],
            ),
            g.ChatMessage(role=g.ROLE_TOOL, tool_call_id="c2", content="noon"),
            g.ChatMessage(role=g.ROLE_TOOL, tool_call_id="c1", tool_name="other", content="sun"),
            g.ChatMessage(role=g.ROLE_TOOL, tool_call_id="c9", content="?"),
        )
    )
    calls = (PastCall("c1", "weather", '{"city": "Zürich"}'), PastCall("c2", "time", "{}"))
    assert chat.turns == (
        ChatTurn("user", "What weather?"),
        ChatTurn("assistant", "", reasoning="I should look.", calls=calls),
        ChatTurn("tool", "noon", call_id="c2", tool_name="time"),
        ChatTurn("tool", "sun", call_id="c1", tool_name="other"),
        ChatTurn("tool", "?", call_id="c9"),
    )


@pytest.mark.parametrize(
    ("choice", "mode", "only"),
    [
        (None, ToolMode.AUTO, ""),
        (g.ToolChoice(), ToolMode.AUTO, ""),
        (g.ToolChoice(mode=g.TOOL_MODE_NONE), ToolMode.NONE, ""),
        (g.ToolChoice(mode=g.TOOL_MODE_REQUIRED), ToolMode.REQUIRED, ""),
        (g.ToolChoice(name="weather"), ToolMode.REQUIRED, "weather"),
        (g.ToolChoice(mode=g.TOOL_MODE_AUTO, name="weather"), ToolMode.AUTO, "weather"),
    ],
)
def test_tools_and_how_they_are_used(
    choice: g.ToolChoice | None, mode: ToolMode, only: str
) -> None:
    tools = (Tool("weather", "d", SCHEMA, strict=True),)
    message = asked(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)
    assert chat_of(message).tools == Tools(tools, mode, only, parallel=False)
    message.ClearField("parallel_tool_calls")
    assert chat_of(message).tools == Tools(tools, mode, only)
    assert chat_of(asked()).tools is None


def test_reasoning() -> None:
    reasoning = g.Reasoning(enabled=False, effort=g.REASONING_EFFORT_HIGH, budget_tokens=7)
    assert chat_of(asked(reasoning=reasoning)).reasoning == Reasoning(False, "high", 7)
    assert chat_of(asked(reasoning=g.Reasoning())).reasoning == Reasoning()


def test_counting_gets_tools_and_reasoning_too() -> None:
    message = g.CountTokensRequest(
        model="pocket",
        chat=g.ChatInput(messages=[USER]),
        tools=[WEATHER],
        reasoning=g.Reasoning(enabled=True),
    )
    source = convert.count_request(message).input
    assert isinstance(source, Chat)
    assert source.tools == Tools((Tool("weather", "d", SCHEMA, strict=True),))
    assert source.reasoning == Reasoning(enabled=True)


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"json_schema": SCHEMA}, OutputConstraint("json_schema", SCHEMA)),
        ({"json_schema": "true"}, OutputConstraint("json_schema", "true")),
        ({"regex": "a+"}, OutputConstraint("regex", "a+")),
        ({"grammar": "start: A"}, OutputConstraint("grammar", "start: A")),
        ({"choice": g.Choices(texts=["a", "b"])}, OutputConstraint("choice", '["a", "b"]')),
        ({"json_object": g.JsonObject()}, OutputConstraint("json_object", "")),
        ({}, None),
    ],
)
def test_each_constraint(fields: dict[str, Any], constraint: OutputConstraint | None) -> None:
    assert convert.generation_request(asked(**fields)).constraint == constraint
    with_tools = asked(**fields, tools=[WEATHER], tool_choice=g.ToolChoice(mode=g.TOOL_MODE_NONE))
    assert convert.generation_request(with_tools).constraint == constraint


def test_the_rest_of_the_request() -> None:
    message = asked(n=3, logprobs=g.Logprobs(top=2, prompt=True), session_id="s")
    message.labels.update({"team": "x", "app": "y"})
    request = convert.generation_request(message)
    assert (request.n, request.session_id) == (3, "s")
    assert request.logprobs == LogprobOptions(2, prompt=True)
    assert request.labels == (("app", "y"), ("team", "x"))
    plain = convert.generation_request(asked())
    assert (plain.n, plain.logprobs, plain.labels) == (1, None, ())


def call(arguments: str, name: str = "weather") -> g.ChatMessage:
    calls = [g.ToolCall(name="time"), g.ToolCall(name=name, arguments=arguments)]
    return g.ChatMessage(role=g.ROLE_ASSISTANT, tool_calls=calls)


PARTS = [g.ContentPart(text="x")]
CALLS = [g.ToolCall(name="weather")]
DEEP = "[" * 100_000
NAMED = g.ToolChoice(name="a")
REQUIRED = g.ToolChoice(mode=g.TOOL_MODE_REQUIRED)
ILLEGAL = [
    (asked(USER, g.ChatMessage(role=g.ROLE_USER, content="a", parts=PARTS)), "[1].parts"),
    (asked(g.ChatMessage(role=g.ROLE_USER, tool_calls=CALLS)), "[0].tool_calls"),
    (asked(g.ChatMessage(role=g.ROLE_TOOL, reasoning_text="x")), "[0].reasoning_text"),
    (asked(g.ChatMessage(role=g.ROLE_ASSISTANT, tool_call_id="x")), "[0].tool_call_id"),
    (asked(g.ChatMessage(role=g.ROLE_USER, tool_name="x")), "[0].tool_name"),
    (asked(call("{")), "[0].tool_calls[1].arguments"),
    (asked(call("[]")), "[0].tool_calls[1].arguments"),
    (asked(call('{"a": NaN}')), "[0].tool_calls[1].arguments"),
    (asked(call(DEEP)), "[0].tool_calls[1].arguments"),
    (asked(call("", name="")), "[0].tool_calls[1].name"),
    (asked(tools=[WEATHER, g.Tool(name="a"), WEATHER]), "tools[2].name"),
    (
        asked(tools=[g.Tool(name="a", parameters_json_schema="{")]),
        "tools[0].parameters_json_schema",
    ),
    (
        asked(tools=[g.Tool(name="a", parameters_json_schema="1")]),
        "tools[0].parameters_json_schema",
    ),
    (
        asked(tools=[g.Tool(name="a", parameters_json_schema='{"type": "array"}')]),
        "tools[0].parameters_json_schema",
    ),
    (asked(tool_choice=g.ToolChoice()), "tool_choice"),
    (asked(tools=[WEATHER], tool_choice=g.ToolChoice(name="b")), "tool_choice.name"),
    (
        asked(tools=[WEATHER], tool_choice=g.ToolChoice(mode=g.TOOL_MODE_NONE, name="weather")),
        "tool_choice.name",
    ),
    (asked(tools=[WEATHER], tool_choice=g.ToolChoice(mode=77)), "tool_choice.mode"),  # pyright: ignore[reportArgumentType]
    (asked(reasoning=g.Reasoning(effort=77)), "reasoning.effort"),  # pyright: ignore[reportArgumentType]
    (g.GenerateRequest(model="pocket", prompt="x", tools=[WEATHER]), "tools"),
    (g.GenerateRequest(model="pocket", prompt="x", tool_choice=g.ToolChoice()), "tool_choice"),
    (g.GenerateRequest(model="pocket", prompt="x", reasoning=g.Reasoning()), "reasoning"),
    (asked(json_schema="{"), "json_schema"),
    (asked(json_schema="[]"), "json_schema"),
    (asked(json_schema=DEEP), "json_schema"),
    (asked(regex="a", ignore_eos=True), "ignore_eos"),
    (asked(reasoning=g.Reasoning(budget_tokens=1), ignore_eos=True), "ignore_eos"),
    (asked(tools=[WEATHER], tool_choice=REQUIRED, ignore_eos=True), "ignore_eos"),
    (
        asked(tools=[WEATHER], tool_choice=g.ToolChoice(name="weather"), ignore_eos=True),
        "ignore_eos",
    ),
    (asked(tools=[g.Tool(name="a", strict=True)], ignore_eos=True), "ignore_eos"),
    (asked(tools=[g.Tool(name="a")], parallel_tool_calls=False, ignore_eos=True), "ignore_eos"),
    (asked(json_object=g.JsonObject(), tools=[WEATHER]), "json_object"),
    (asked(grammar="start: A", tools=[WEATHER]), "grammar"),
]


@pytest.mark.parametrize(("message", "field"), ILLEGAL, ids=[field for _, field in ILLEGAL])
def test_what_cannot_be_served_names_its_field(message: g.GenerateRequest, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        convert.generation_request(message)
    assert caught.value.field == (f"chat.messages{field}" if field.startswith("[") else field)
    assert caught.value.field in str(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        asked(ignore_eos=True, tools=[g.Tool(name="weather")]),
        asked(
            ignore_eos=True,
            tools=[g.Tool(name="weather", strict=True)],
            tool_choice=g.ToolChoice(mode=g.TOOL_MODE_NONE),
        ),
        asked(ignore_eos=True, reasoning=g.Reasoning(enabled=True)),
    ],
)
def test_end_tokens_may_be_ignored_where_nothing_needs_them(message: g.GenerateRequest) -> None:
    assert convert.generation_request(message).ignore_eos


@pytest.mark.parametrize("field", ["tools", "reasoning"])
def test_counting_a_text_takes_neither(field: str) -> None:
    message = g.CountTokensRequest(model="pocket", prompt="x")
    if field == "tools":
        message.tools.append(WEATHER)
    else:
        message.reasoning.enabled = True
    with pytest.raises(InvalidArgument) as caught:
        convert.count_request(message)
    assert caught.value.field == field


def resume(*outputs: g.ReceivedOutput, n: int = 2) -> g.ResumeGenerationRequest:
    return g.ResumeGenerationRequest(
        generation=asked(n=n), after_sequence=1, outputs=outputs, prompt_logprobs=3
    )


def test_what_was_received_of_each_output() -> None:
    finished = g.Finished(
        index=1,
        finish_reason=g.FINISH_REASON_TOOL_CALLS,
        stop_token_id=9,
        usage=g.Usage(prompt_tokens=5, completion_tokens=2, reasoning_tokens=1),
    )
    resumed = convert.resumed(
        resume(
            g.ReceivedOutput(
                token_ids=[1],
                text_characters=2,
                reasoning_characters=3,
                tool_calls=4,
                arguments_characters=5,
            ),
            g.ReceivedOutput(index=1, token_ids=[7, 9], finished=finished),
        )
    )
    first, second = resumed.outputs[0], resumed.outputs[1]
    assert (list(first.token_ids), first.text_characters, first.reasoning_characters) == ([1], 2, 3)
    assert (first.tool_calls, first.arguments_characters, first.finished) == (4, 5, None)
    assert second.finished is not None
    assert (second.finished.index, second.finished.reasoning_tokens) == (1, 1)
    assert second.finished.stop_token_id == 9
    assert resumed.prompt_logprobs == 3


ENDED = g.Finished(finish_reason=g.FINISH_REASON_STOP)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (resume(g.ReceivedOutput(index=2)), "outputs[0].index"),
        (resume(g.ReceivedOutput(), g.ReceivedOutput()), "outputs[1].index"),
        (resume(g.ReceivedOutput(finished=ENDED), n=1), "outputs"),
    ],
)
def test_what_no_generation_can_have_sent(message: g.ResumeGenerationRequest, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        convert.resumed(message)
    assert caught.value.field == field
