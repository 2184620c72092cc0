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
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat import (
    completion_create_params as chat_create_params,
)

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.schema import Harmless, Refused, Schema, read_request
from mlxmesh_gateway.openai.chat_schema import ChatRequest, Message
from mlxmesh_gateway.openai.completion_schema import CompletionRequest
from mlxmesh_gateway.openai.convert import chat_generation, includes_usage, text_generation
from mlxmesh_gateway.openai.schema import StreamOptions, TextPart
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

ROOT = Path(__file__).resolve().parents[3]
MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**fields: object) -> pb.GenerateRequest:
    request, unknown = read_request(
        ChatRequest, {"model": "pocket", "messages": MESSAGES, **fields}
    )
    assert unknown == []
    return chat_generation(request)


def completion(prompt: object, **fields: object) -> pb.GenerateRequest:
    request, _ = read_request(CompletionRequest, {"model": "pocket", "prompt": prompt, **fields})
    return text_generation(request)


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
    ],
)
def test_every_field_that_the_client_has_is_known(schema: type[Schema], params: Any) -> None:
    fields = get_type_hints(params).keys()
    assert fields
    assert fields - set(schema.model_fields) == set()


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
        n=1,
        top_k=3,
        min_p=0.125,
        repetition_penalty=2,
        stop_token_ids=[7],
        ignore_eos=True,
        priority=-3,
        session_id="s",
        adapter="a",
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
        n=1,
        stop=["x"],
        stop_token_ids=[7],
        ignore_eos=True,
        priority=-3,
        session_id="s",
        adapter="a",
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


@pytest.mark.parametrize(
    "prompt", [None, 5, ["x", "y"], [[1], [2]], [-1], [2**32], [True], [["x"]]]
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
    ("field", "value"),
    [("echo", True), ("suffix", "end"), ("best_of", 2), ("logprobs", 0)],
)
def test_what_completions_refuse(field: str, value: object) -> None:
    with pytest.raises(FeatureNotSupported) as caught:
        completion("x", **{field: value})
    assert caught.value.field == field


def test_harmless_fields_change_nothing() -> None:
    harmless = {
        name: "x"
        for name, field in ChatRequest.model_fields.items()
        if any(isinstance(mark, Harmless) for mark in field.metadata)
    }
    assert {"user", "metadata", "service_tier", "prompt_cache_key"} <= harmless.keys()
    assert chat(**harmless, store=False) == chat()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x", "name": "Al"}]}, "messages.0.name"),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
            "messages.0.tool_calls",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.image_url",
        ),
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
        completion(prompt)


@pytest.mark.parametrize(
    "schema", [ChatRequest, CompletionRequest, Message, TextPart, StreamOptions]
)
def test_fields_that_are_not_honoured_are_documented(schema: type[Schema]) -> None:
    fields = (ROOT / "docs/clients.md").read_text().partition("## Fields")[2]
    for name, field in schema.model_fields.items():
        if any(isinstance(mark, Harmless | Refused) for mark in field.metadata):
            assert f"`{name}`" in fields or f".{name}`" in fields
