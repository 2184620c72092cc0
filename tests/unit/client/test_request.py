"""Python arguments become requests; what cannot become one is named."""

import json
from typing import Any

import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2 import Role
from mlxmesh_client.request import count_request, generate_request
from mlxmesh_shared.errors import InvalidArgument


def test_every_option_lands_in_its_field() -> None:
    request = generate_request(
        "pocket@2",
        {
            "prompt": "Hi",
            "max_tokens": 5,
            "temperature": 0.5,
            "top_p": 0.25,
            "top_k": 7,
            "min_p": 0.125,
            "repetition_penalty": 1.5,
            "presence_penalty": -1.0,
            "frequency_penalty": 2.0,
            "seed": 2**64 - 1,
            "logit_bias": {17: -100.0},
            "stop": ["a", "b"],
            "stop_token_ids": [1, 2],
            "ignore_eos": True,
            "request_id": "r-1",
        },
    )

    assert (request.model, request.prompt, request.max_tokens) == ("pocket@2", "Hi", 5)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 7)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.125, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-1.0, 2.0)
    assert (sampling.seed, dict(sampling.logit_bias)) == (2**64 - 1, {17: -100.0})
    assert (list(request.stop), list(request.stop_token_ids)) == (["a", "b"], [1, 2])
    assert (request.ignore_eos, request.request_id) == (True, "r-1")


def test_what_is_not_given_is_not_set() -> None:
    request = generate_request("pocket", {"prompt": "Hi"})

    assert not request.HasField("max_tokens")
    assert not request.HasField("sampling")


def test_zero_is_given_where_it_is_a_legal_value() -> None:
    request = generate_request("pocket", {"prompt": "Hi", "temperature": 0.0, "seed": 0})

    assert request.sampling.HasField("temperature")
    assert request.sampling.HasField("seed")


def test_turns_are_pairs_or_mappings() -> None:
    messages = [("system", "Be brief."), {"role": "user", "content": "Hi"}, ("assistant", "Yo")]

    chat = generate_request("pocket", {"messages": messages}).chat

    assert [turn.role for turn in chat.messages] == [
        Role.ROLE_SYSTEM,
        Role.ROLE_USER,
        Role.ROLE_ASSISTANT,
    ]
    assert [turn.content for turn in chat.messages] == ["Be brief.", "Hi", "Yo"]


def test_token_ids_are_an_input_too() -> None:
    assert list(generate_request("pocket", {"token_ids": [3, 4]}).tokens.token_ids) == [3, 4]


def test_counting_takes_the_same_inputs() -> None:
    request = count_request("pocket", {"messages": [("user", "Hi")]}, return_token_ids=True)

    assert request.chat.messages[0].content == "Hi"
    assert request.return_token_ids


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "input"),
        ({"prompt": "a", "messages": [("user", "b")]}, "input"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens"),
        ({"prompt": "a", "top_k": -1}, "sampling.top_k"),
        ({"prompt": "a", "seed": 2**64}, "sampling.seed"),
        ({"prompt": "a", "stop": [1]}, "stop"),
        ({"prompt": "a", "temprature": 1.0}, "temprature"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"token_ids": [-1]}, "token_ids"),
        ({"messages": [("user", "a"), ("judge", "b")]}, "chat.messages[1].role"),
        ({"messages": [{"role": "user"}]}, "chat.messages[0]"),
        ({"messages": [5]}, "chat.messages[0]"),
        ({"messages": [("user", 5)]}, "chat.messages[0].content"),
        ({"messages": ["user"]}, "chat.messages[0]"),
        ({"messages": [("user", "a", "b")]}, "chat.messages[0]"),
    ],
)
def test_an_argument_that_fits_nowhere_is_named(options: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        generate_request("pocket", options)

    assert caught.value.field == field


def test_an_error_never_quotes_the_prompt() -> None:
    with pytest.raises(InvalidArgument) as caught:
        generate_request("pocket", {"prompt": "secret \ud800"})

    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


SCHEMA = {"type": "object", "properties": {"ü": {"type": "string"}}}
ASKED: dict[str, Any] = {"messages": [("user", "Hi")]}


def asked(**options: Any) -> g.GenerateRequest:
    return generate_request("pocket", {**ASKED, **options})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("option", "value", "field", "expected"),
    [
        ("json_schema", SCHEMA, "json_schema", json.dumps(SCHEMA, ensure_ascii=False)),
        ("json_schema", "{}", "json_schema", "{}"),
        ("regex", "a+", "regex", "a+"),
        ("grammar", 'start: "a"', "grammar", 'start: "a"'),
        ("choice", ["a", "b"], "choice", g.Choices(texts=["a", "b"])),
        ("json_object", True, "json_object", g.JsonObject()),
        ("logprobs", 0, "logprobs", g.Logprobs()),
        ("logprobs", 5, "logprobs", g.Logprobs(top=5)),
        ("prompt_logprobs", True, "logprobs", g.Logprobs(prompt=True)),
        ("n", 3, "n", 3),
        ("priority", -100, "priority", -100),
        ("session_id", "s-1", "session_id", "s-1"),
        ("service_tier", "flex", "service_tier", g.SERVICE_TIER_FLEX),
        ("labels", {"k": "v"}, "labels", {"k": "v"}),
        ("parallel_tool_calls", False, "parallel_tool_calls", False),
        ("tool_choice", "none", "tool_choice", g.ToolChoice(mode=g.TOOL_MODE_NONE)),
        ("tool_choice", "required", "tool_choice", g.ToolChoice(mode=g.TOOL_MODE_REQUIRED)),
        ("tool_choice", {"name": "f"}, "tool_choice", g.ToolChoice(name="f")),
        ("reasoning", False, "reasoning", g.Reasoning(enabled=False)),
        ("reasoning_effort", "low", "reasoning", g.Reasoning(effort=g.REASONING_EFFORT_LOW)),
        ("reasoning_budget", 9, "reasoning", g.Reasoning(budget_tokens=9)),
    ],
)
def test_options_of_the_shape_of_an_output(
    option: str, value: object, field: str, expected: object
) -> None:
    request = asked(**{option: value})
    found = getattr(request, field)
    assert (dict(found) if field == "labels" else found) == expected
    if field not in ("labels", "priority", "service_tier", "session_id"):
        assert request.HasField(field)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("option", ["json_object", "prompt_logprobs"])
def test_what_is_switched_off_is_not_set(option: str) -> None:
    request = asked(**{option: False})
    assert request.WhichOneof("constraint") is None
    assert not request.HasField("logprobs")


def test_both_kinds_of_logprobs() -> None:
    assert asked(logprobs=2, prompt_logprobs=True).logprobs == g.Logprobs(top=2, prompt=True)


def test_tools_have_two_shapes() -> None:
    plain = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
    wrapped = {"type": "function", "function": {**plain, "name": "g", "strict": None}}
    first, second, third = asked(tools=[plain, wrapped, {"name": "h"}]).tools
    assert (first.name, first.description, first.strict) == ("f", "d", True)
    assert json.loads(first.parameters_json_schema) == SCHEMA
    assert (second.name, second.strict) == ("g", False)
    assert third == g.Tool(name="h")


def test_counting_takes_tools_and_reasoning() -> None:
    request = count_request(
        "pocket",
        {"messages": [("user", "Hi")], "tools": [{"name": "f"}], "reasoning": True},
        return_token_ids=False,
    )
    assert [tool.name for tool in request.tools] == ["f"]
    assert request.reasoning.enabled


def test_a_round_trip_of_a_tool() -> None:
    call = g.ToolCall(index=3, id="c-1", name="f", arguments='{"a": 1}')
    _, first, second, result = generate_request(
        "pocket",
        {
            "messages": [
                ("user", "Hi"),
                {"role": "assistant", "tool_calls": [call], "reasoning_text": "Hm"},
                {
                    "role": "assistant",
                    "content": "Then",
                    "tool_calls": [{"id": "c-2", "name": "g", "arguments": {"b": "ü"}}],
                },
                {"role": "tool", "content": ["4", " degrees"], "tool_call_id": "c-1"},
            ]
        },
    ).chat.messages
    assert (first.content, first.reasoning_text, first.tool_calls) == ("", "Hm", [call])
    assert second.content == "Then"
    assert second.tool_calls == [g.ToolCall(id="c-2", name="g", arguments='{"b": "ü"}')]
    assert (result.role, result.tool_call_id) == (Role.ROLE_TOOL, "c-1")
    assert [part.text for part in result.parts] == ["4", " degrees"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"json_schema": 5}, "json_schema"),
        ({"json_schema": {"a": object()}}, "json_schema"),
        ({"json_schema": "{}", "regex": "a"}, "regex"),
        ({"regex": 5}, "regex"),
        ({"choice": "a"}, "choice"),
        ({"choice": [5]}, "choice.texts"),
        ({"json_object": 1}, "json_object"),
        ({"logprobs": -1}, "logprobs.top"),
        ({"logprobs": "5"}, "logprobs.top"),
        ({"prompt_logprobs": "yes"}, "logprobs.prompt"),
        ({"n": -1}, "n"),
        ({"tools": {"name": "f"}}, "tools"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": [{"name": "f"}, {}]}, "tools[1].name"),
        ({"tools": [{"name": "f", "parameters": 5}]}, "tools[0].parameters"),
        ({"tools": [{"name": "f", "colour": "red"}]}, "tools[0].colour"),
        ({"tools": [{"type": "function", "function": "f"}]}, "tools[0].function"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tool_choice": {"name": 5}}, "tool_choice.name"),
        ({"reasoning": "yes"}, "reasoning"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning_budget": -1}, "reasoning.budget_tokens"),
        ({"session_id": 5}, "session_id"),
        ({"labels": {"a": 5}}, "labels"),
        ({"labels": 5}, "labels"),
        ({"priority": 2**31}, "priority"),
    ],
)
def test_an_option_that_fits_nowhere_is_named(options: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        asked(**options)

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "assistant", "tool_calls": [5]}, ".tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"nome": "f"}]}, ".tool_calls[0].nome"),
        ({"role": "assistant", "tool_calls": [{"name": 5}]}, ".tool_calls[0].name"),
        ({"role": "assistant", "tool_calls": [{"arguments": 5}]}, ".tool_calls[0].arguments"),
        ({"role": "assistant", "tool_calls": []}, ""),
        ({"role": "tool", "content": "a", "tool_call_id": 5}, ".tool_call_id"),
        ({"role": "user", "content": [5]}, ".content[0].text"),
        ({"role": "user", "content": "a", "colour": "red"}, ".colour"),
        ({"role": ["user"], "content": "a"}, ".role"),
    ],
)
def test_a_message_that_fits_nowhere_is_named(message: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        generate_request("pocket", {"messages": [message]})

    assert caught.value.field == f"chat.messages[0]{field}"
