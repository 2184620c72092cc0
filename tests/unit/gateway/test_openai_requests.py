"""OpenAI's requests as messages of the contract; each of their fields is honoured or named."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import completion_create_params
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartImageParam,
    ChatCompletionContentPartInputAudioParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat import (
    completion_create_params as chat_create_params,
)
from openai.types.chat.chat_completion_message_function_tool_call_param import (
    Function as CalledFunctionParam,
)
from openai.types.shared_params import FunctionDefinition, ResponseFormatJSONSchema
from openai.types.shared_params.response_format_json_schema import JSONSchema

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.schema import Harmless, Refused, Schema, read_request
from mlxmesh_gateway.openai.chat_convert import chat_generation
from mlxmesh_gateway.openai.chat_schema import (
    CalledFunction,
    ChatRequest,
    JsonSchema,
    Message,
    ResponseFormat,
    ToolCall,
)
from mlxmesh_gateway.openai.completion_convert import text_generations
from mlxmesh_gateway.openai.completion_schema import CompletionRequest
from mlxmesh_gateway.openai.convert import includes_usage, tier_name
from mlxmesh_gateway.openai.labels import add_metadata
from mlxmesh_gateway.openai.schema import StreamOptions, TextPart
from mlxmesh_gateway.openai.tool_schema import ChatTool, Function
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

ROOT = Path(__file__).resolve().parents[3]
MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**fields: object) -> pb.GenerateRequest:
    body = {"model": "pocket", "messages": MESSAGES, **fields}
    request, unknown = read_request(ChatRequest, body)
    generation = chat_generation(request)
    assert unknown == []
    return generation


def completions(prompt: object, **fields: object) -> list[pb.GenerateRequest]:
    request, _ = read_request(CompletionRequest, {"model": "pocket", "prompt": prompt, **fields})
    return text_generations(request)


def completion(prompt: object, **fields: object) -> pb.GenerateRequest:
    (generation,) = completions(prompt, **fields)
    return generation


@pytest.mark.parametrize(
    ("schema", "params"),
    [
        (ChatRequest, chat_create_params.CompletionCreateParamsStreaming),
        (CompletionRequest, completion_create_params.CompletionCreateParamsStreaming),
        (StreamOptions, ChatCompletionStreamOptionsParam),
        (Message, ChatCompletionAssistantMessageParam),
        (Message, ChatCompletionDeveloperMessageParam),
        (Message, ChatCompletionSystemMessageParam),
        (Message, ChatCompletionToolMessageParam),
        (Message, ChatCompletionUserMessageParam),
        (TextPart, ChatCompletionContentPartTextParam),
        (TextPart, ChatCompletionContentPartImageParam),
        (TextPart, ChatCompletionContentPartInputAudioParam),
        (ChatTool, ChatCompletionFunctionToolParam),
        (Function, FunctionDefinition),
        (ResponseFormat, ResponseFormatJSONSchema),
        (JsonSchema, JSONSchema),
        (ToolCall, ChatCompletionMessageFunctionToolCallParam),
        (CalledFunction, CalledFunctionParam),
    ],
)
def test_every_field_that_the_client_has_is_known(schema: type[Schema], params: Any) -> None:
    fields = get_type_hints(params).keys()
    assert fields
    known = {field.alias or name for name, field in schema.model_fields.items()}
    assert fields - known == set()


def test_a_chat_with_every_option() -> None:
    generation = chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"text": "b", "type": "text"}],
            },
            {"role": "assistant", "content": "c"},
            {"role": "tool", "content": "d", "tool_call_id": "1"},
        ],
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.25,
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={"5": -1, "6": 2.5},
        seed=-1,
        stop="x",
        n=3,
        top_k=3,
        min_p=0.125,
        repetition_penalty=2,
        stop_token_ids=[7],
        ignore_eos=True,
        priority=-3,
        session_id="s",
        adapter="a",
        labels={"team": "a"},
    )
    turns = [(one.role, one.content) for one in generation.chat.messages]
    assert turns == [
        (pb.ROLE_SYSTEM, "Be brief."),
        (pb.ROLE_USER, "ab"),
        (pb.ROLE_ASSISTANT, "c"),
        (pb.ROLE_TOOL, "d"),
    ]
    generation.ClearField("chat")
    expected = pb.GenerateRequest(
        model="pocket",
        max_tokens=9,
        n=3,
        stop=["x"],
        stop_token_ids=[7],
        ignore_eos=True,
        priority=-3,
        session_id="s",
        adapter="a",
        labels={"team": "a"},
    )
    sampling = expected.sampling
    sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p = 0.5, 0.25, 3, 0.125
    sampling.presence_penalty, sampling.frequency_penalty = 1, -1
    sampling.repetition_penalty, sampling.seed = 2, 2**64 - 1
    sampling.logit_bias[5], sampling.logit_bias[6] = -1, 2.5
    assert generation == expected


def test_defaults_are_those_of_openai() -> None:
    assert chat().sampling.temperature == 1
    assert not chat().HasField("max_tokens")
    assert chat(temperature=0).sampling.temperature == 0
    assert completion("x").max_tokens == 16
    assert completion("x").sampling.temperature == 1


@pytest.mark.parametrize("prompt", ["x", ["x"]])
def test_one_text_is_a_prompt(prompt: object) -> None:
    assert completion(prompt).prompt == "x"


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2]]])
def test_token_ids_are_a_prompt(prompt: object) -> None:
    assert list(completion(prompt).tokens.token_ids) == [1, 2]


def test_each_of_several_prompts_is_a_generation() -> None:
    made = completions(["x", [1, 2]], n=2, seed=3)
    assert (made[0].prompt, list(made[1].tokens.token_ids)) == ("x", [1, 2])
    assert [(one.n, one.sampling.seed) for one in made] == [(2, 3), (2, 3)]
    assert [one.request_id for one in made] == ["", ""]


def test_each_of_several_prompts_has_a_request_id_of_its_own() -> None:
    body = {"model": "pocket", "prompt": ["x", "y"]}
    request, _ = read_request(CompletionRequest, body)
    ids = [one.request_id for one in text_generations(request, request_id="job")]
    assert len(set(ids)) == 2
    assert ids == [one.request_id for one in text_generations(request, request_id="job")]
    assert all(len(one) <= 128 for one in ids)


@pytest.mark.parametrize(
    "prompt",
    [None, 5, {}, ["x"] * 33, [[1]] * 33, [-1], [2**32], [True], [["x"]], ["x", 5], [[1], [True]]],
)
def test_anything_else_is_no_prompt(prompt: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        completion(prompt)
    assert caught.value.field == "prompt"


def refused_fields(schema: type[Schema]) -> list[tuple[str, Refused]]:
    return [
        (name, mark)
        for name, field in schema.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Refused)
    ]


@pytest.mark.parametrize(("name", "mark"), refused_fields(ChatRequest))
def test_a_field_that_is_not_honoured_is_named_unless_it_changes_nothing(
    name: str, mark: Refused
) -> None:
    for value in (None, *mark.unless):
        assert chat(**{name: value}) == chat()
    for value in ("x", [1], {"a": 1}, True, 7):
        with pytest.raises(FeatureNotSupported) as caught:
            chat(**{name: value})
        assert caught.value.field == name


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"suffix": "end"}, FeatureNotSupported),
        ({"best_of": 2}, FeatureNotSupported),
        ({"best_of": 1, "n": 2}, FeatureNotSupported),
        ({"logprobs": 6}, InvalidArgument),
        ({"logprobs": -1}, InvalidArgument),
        ({"logprobs": True}, InvalidArgument),
        ({"echo": 1}, InvalidArgument),
        ({"max_tokens": 0}, InvalidArgument),
    ],
)
def test_what_completions_refuse(fields: dict[str, object], kind: type[InvalidArgument]) -> None:
    with pytest.raises(kind) as caught:
        completion("x", **fields)
    assert caught.value.field == next(iter(fields))


def test_no_tokens_at_all_is_answered_with_what_to_do_instead() -> None:
    with pytest.raises(InvalidArgument, match="send max_tokens: 1 with echo and logprobs"):
        completion("x", max_tokens=0, echo=True, logprobs=1)


@pytest.mark.parametrize(
    ("prompt", "fields", "expected"),
    [
        ("x", {}, None),
        ("x", {"logprobs": 0}, pb.Logprobs()),
        ("x", {"logprobs": 5}, pb.Logprobs(top=5)),
        ("x", {"logprobs": 1, "echo": True}, pb.Logprobs(top=1, prompt=True)),
        ("x", {"echo": True}, None),
        # Their texts are known from them alone.
        ([1], {"echo": True}, pb.Logprobs(prompt=True)),
    ],
)
def test_log_probabilities_of_completions(
    prompt: object, fields: dict[str, object], expected: pb.Logprobs | None
) -> None:
    made = completion(prompt, **fields)
    assert (made.logprobs if made.HasField("logprobs") else None) == expected


def test_best_of_as_many_as_are_returned_changes_nothing() -> None:
    assert completion("x", best_of=1) == completion("x")
    assert completion("x", n=2, best_of=2) == completion("x", n=2)


SCHEMA = {"type": "object", "properties": {"ä": {"type": "string"}}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_object": pb.JsonObject()}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "a",
                        "description": "b",
                        "strict": True,
                        "schema": SCHEMA,
                    },
                }
            },
            {"json_schema": '{"type":"object","properties":{"ä":{"type":"string"}}}'},
        ),
        ({"regex": "a+"}, {"regex": "a+"}),
        ({"grammar": "start: A"}, {"grammar": "start: A"}),
        ({"choice": ["a", "b"]}, {"choice": pb.Choices(texts=["a", "b"])}),
        ({"regex": "a+", "response_format": {"type": "text"}}, {"regex": "a+"}),
        ({"logprobs": True}, {"logprobs": pb.Logprobs()}),
        ({"logprobs": True, "top_logprobs": 20}, {"logprobs": pb.Logprobs(top=20)}),
        ({"logprobs": False, "top_logprobs": 0}, {}),
        ({"reasoning_effort": "none"}, {"reasoning": pb.Reasoning(enabled=False)}),
        (
            {"reasoning_effort": "minimal"},
            {"reasoning": pb.Reasoning(effort=pb.REASONING_EFFORT_MINIMAL)},
        ),
        (
            {"reasoning": {"enabled": True, "effort": "high", "budget_tokens": 7}},
            {
                "reasoning": pb.Reasoning(
                    enabled=True, effort=pb.REASONING_EFFORT_HIGH, budget_tokens=7
                )
            },
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            {"reasoning": pb.Reasoning(enabled=False)},
        ),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": False}, {}),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            {"tools": [pb.Tool(name="f")]},
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "description": "d",
                            "parameters": {"type": "object"},
                            "strict": True,
                        },
                    }
                ],
                "tool_choice": {"type": "function", "function": {"name": "f"}},
                "parallel_tool_calls": False,
            },
            {
                "tools": [
                    pb.Tool(
                        name="f",
                        description="d",
                        parameters_json_schema='{"type":"object"}',
                        strict=True,
                    )
                ],
                "tool_choice": pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED, name="f"),
                "parallel_tool_calls": False,
            },
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
            {"tools": [pb.Tool(name="f")], "tool_choice": pb.ToolChoice(mode=pb.TOOL_MODE_NONE)},
        ),
        (
            {
                "tools": [{"type": "function", "function": {"name": name}} for name in "fgh"],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "required",
                        "tools": [{"type": "function", "function": {"name": "g"}}],
                    },
                },
            },
            {
                "tools": [pb.Tool(name="g")],
                "tool_choice": pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED),
            },
        ),
    ],
)
def test_options_are_those_of_the_contract(
    fields: dict[str, object], expected: dict[str, Any]
) -> None:
    wanted = chat()
    wanted.MergeFrom(pb.GenerateRequest(**expected))
    assert chat(**fields) == wanted


def test_a_conversation_with_calls() -> None:
    generation = chat(
        messages=[
            {"role": "user", "content": "x"},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Hm",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a": 1}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "y"},
            {"role": "assistant", "content": None, "reasoning_content": "So"},
        ]
    )
    assert list(generation.chat.messages)[1:] == [
        pb.ChatMessage(
            role=pb.ROLE_ASSISTANT,
            reasoning_text="Hm",
            tool_calls=[pb.ToolCall(id="c1", name="f", arguments='{"a": 1}')],
        ),
        pb.ChatMessage(role=pb.ROLE_TOOL, tool_call_id="c1", tool_name="f", content="y"),
        pb.ChatMessage(role=pb.ROLE_ASSISTANT, reasoning_text="So"),
    ]


def test_metadata_that_can_be_labels_are() -> None:
    generation = chat(labels={"a": "own", **{str(number): "x" for number in range(13)}})
    metadata = {"a": "other", "Team": "x", "b": "1", "c": "x" * 257, "d": "2", "e": "3"}
    assert add_metadata(generation, metadata) == ["metadata.Team", "metadata.c", "metadata.e"]
    assert len(generation.labels) == 16
    assert [generation.labels[key] for key in "abd"] == ["own", "1", "2"]
    assert add_metadata(generation, None) == []


@pytest.mark.parametrize(
    ("asked", "tier", "shown"),
    [
        ("flex", pb.SERVICE_TIER_FLEX, "flex"),
        ("auto", pb.SERVICE_TIER_STANDARD, "default"),
        ("priority", pb.SERVICE_TIER_STANDARD, "default"),
        (None, pb.SERVICE_TIER_UNSPECIFIED, ""),
    ],
)
def test_the_service_tier_is_that_of_the_contract(asked: str | None, tier: int, shown: str) -> None:
    generation = chat(service_tier=asked)
    assert generation.service_tier == tier
    assert tier_name(generation) == shown


def test_an_unknown_service_tier_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        chat(service_tier="economy")
    assert caught.value.field == "service_tier"


def test_harmless_fields_change_nothing() -> None:
    harmless = {
        name: "x"
        for name, field in ChatRequest.model_fields.items()
        if any(isinstance(mark, Harmless) for mark in field.metadata)
    }
    assert {"prediction", "prompt_cache_key"} <= harmless.keys()
    assert chat(**harmless, store=False) == chat()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x", "name": "Al"}]}, "messages.0.name"),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
            "messages.0.tool_calls.0.function",
        ),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages.0.content"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "custom"}]}]},
            "messages.0.tool_calls.0.type",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
            "messages.0.tool_calls.0.id",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "function_call": {"name": "f"}}]},
            "messages.0.function_call",
        ),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
        ),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "regex"),
        ({"regex": "a", "choice": ["a"]}, "choice"),
        ({"guided_json": {}}, "guided_json"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.custom"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice.type"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice"),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "f"}}],
                    },
                }
            },
            "tool_choice",
        ),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"logprobs": 5}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning": {"budget_tokens": -1}}, "reasoning.budget_tokens"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"labels": {"a": 1}}, "labels.a"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": ""}]}]},
            "messages.0.content.0.image_url",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": "warm"}, "temperature"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"seed": 2**64}, "seed"),
        ({"stop": 5}, "stop"),
        ({"priority": 2**31}, "priority"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
    ],
)
def test_an_illegal_value_is_named(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        chat(**fields)
    assert caught.value.field == field


def test_usage_is_a_part_of_streams_only() -> None:
    def asked(**fields: object) -> bool:
        body = {"model": "pocket", "messages": MESSAGES, **fields}
        return includes_usage(read_request(ChatRequest, body)[0])

    assert asked(stream=True, stream_options={"include_usage": True})
    assert not asked(stream=True, stream_options={"include_obfuscation": True})
    assert not asked()
    with pytest.raises(InvalidArgument) as caught:
        asked(stream_options={"include_usage": True})
    assert caught.value.field == "stream_options"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(ChatRequest.model_fields)), json_values))
def test_any_chat_becomes_a_message_or_an_error(fields: dict[str, Any]) -> None:
    body = {"model": "pocket", "messages": MESSAGES, **fields}
    with suppress(InvalidArgument):
        chat_generation(read_request(ChatRequest, body)[0])


@given(json_values)
def test_any_prompt_becomes_a_message_or_an_error(prompt: object) -> None:
    with suppress(InvalidArgument):
        assert completions(prompt)


@pytest.mark.parametrize(
    "schema",
    [ChatRequest, CompletionRequest, Message, TextPart, StreamOptions, ChatTool, JsonSchema],
)
def test_fields_that_are_not_honoured_are_documented(schema: type[Schema]) -> None:
    fields = (ROOT / "docs/clients.md").read_text().partition("## Fields")[2]
    for name, field in schema.model_fields.items():
        if any(isinstance(mark, Harmless | Refused) for mark in field.metadata):
            assert f"`{name}`" in fields or f".{name}`" in fields
