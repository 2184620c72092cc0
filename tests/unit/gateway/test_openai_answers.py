"""OpenAI's responses, chunks, errors, and the positions in its streams."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh.model.v1.model_pb2 import Model
from mlxmesh_gateway.http.idempotency import Position, position_of, request_id_of
from mlxmesh_gateway.http.statuses import http_status
from mlxmesh_gateway.openai.answers import Chunks, Origin, whole
from mlxmesh_gateway.openai.convert import model_objects
from mlxmesh_gateway.openai.errors import chat_error_body, completion_error_body, error_body
from mlxmesh_gateway.openai.shapes import ChatShape, Shape, TextShape
from mlxmesh_gateway.openai.usage import usage
from mlxmesh_shared.errors import (
    GenerationCancelled,
    InvalidArgument,
    MeshError,
    MessageTooLarge,
    ModelNotFound,
    QueueFull,
    ServiceUnavailable,
    Unauthenticated,
)

USAGE = pb.Usage(prompt_tokens=7, cached_tokens=2, completion_tokens=3, reasoning_tokens=1)


def origin(model: str = "pocket:stable") -> Origin:
    return Origin(request_id="gen-1", created=1_795_000_000, model=model, version="pocket@3")


def finished(
    reason: pb.FinishReason.ValueType = pb.FINISH_REASON_STOP, *, index: int = 0, last: bool = True
) -> pb.Finished:
    made = pb.Finished(index=index, finish_reason=reason, usage=USAGE)
    if last:
        made.total_usage.CopyFrom(USAGE)
    return made


def chunks(shape: Shape, model: str = "pocket:stable", *, include_usage: bool = False) -> Chunks:
    return Chunks(shape, origin(model), include_usage=include_usage)


def whole_chat(complete: pb.CompleteResponse, *, logprobs: bool = False) -> ChatCompletion:
    answer = whole(origin(), [(ChatShape(logprobs=logprobs), complete)])
    return ChatCompletion.model_validate(answer, strict=True)


def test_a_whole_chat() -> None:
    read = whole_chat(pb.CompleteResponse(text="Hi\n", finished=finished()))
    assert (read.id, read.created, read.model) == ("chatcmpl-gen-1", 1_795_000_000, "pocket:stable")
    assert read.system_fingerprint == "pocket@3"
    assert read.choices[0].message.content == "Hi\n"
    assert read.choices[0].finish_reason == "stop"
    assert read.choices[0].logprobs is None
    assert read.usage is not None
    assert (read.usage.prompt_tokens, read.usage.completion_tokens) == (7, 3)
    assert read.usage.total_tokens == 10
    assert read.usage.prompt_tokens_details is not None
    assert read.usage.prompt_tokens_details.cached_tokens == 2
    assert read.usage.completion_tokens_details is not None
    assert read.usage.completion_tokens_details.reasoning_tokens == 1


def test_a_whole_chat_with_reasoning_and_calls() -> None:
    calls = [pb.ToolCall(index=0, id="c1", name="f", arguments='{"a":1}')]
    read = whole_chat(
        pb.CompleteResponse(
            reasoning_text="Hm.",
            tool_calls=calls,
            finished=finished(pb.FINISH_REASON_TOOL_CALLS),
        )
    )
    (choice,) = read.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert (choice.message.model_extra or {})["reasoning_content"] == "Hm."
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].model_dump() == {
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"a":1}'},
    }


def test_several_outputs_have_their_own_ends() -> None:
    complete = pb.CompleteResponse(
        text="a",
        finished=finished(),
        other_outputs=[
            pb.Output(index=1, text="b", finished=finished(pb.FINISH_REASON_LENGTH, last=False))
        ],
    )
    shown = [
        (one.index, one.message.content, one.finish_reason) for one in whole_chat(complete).choices
    ]
    assert shown == [(0, "a", "stop"), (1, "b", "length")]


def test_an_output_that_was_cancelled_is_an_error() -> None:
    complete = pb.CompleteResponse(text="a", finished=finished(pb.FINISH_REASON_CANCELLED))
    with pytest.raises(GenerationCancelled):
        whole_chat(complete)


def test_a_whole_text() -> None:
    complete = pb.CompleteResponse(text="Hi", finished=finished(pb.FINISH_REASON_LENGTH))
    read = Completion.model_validate(whole(origin(), [(TextShape(), complete)]), strict=True)
    assert (read.id, read.object) == ("cmpl-gen-1", "text_completion")
    assert (read.choices[0].text, read.choices[0].finish_reason) == ("Hi", "length")


def test_the_choices_of_several_prompts_are_in_order_and_their_tokens_add_up() -> None:
    parts = [
        (
            TextShape(outputs=2, first_index=2 * number, echo=True, prompt=prompt),
            pb.CompleteResponse(
                text="x",
                finished=finished(),
                other_outputs=[pb.Output(index=1, text="y", finished=finished(last=False))],
            ),
        )
        for number, prompt in enumerate(("a ", "b "))
    ]
    read = Completion.model_validate(whole(origin(), parts), strict=True)
    assert [(one.index, one.text) for one in read.choices] == [
        (0, "a x"),
        (1, "a y"),
        (2, "b x"),
        (3, "b y"),
    ]
    assert read.usage is not None
    assert read.usage.total_tokens == 20


def read_chunks(events: list[str]) -> list[ChatCompletionChunk]:
    return [ChatCompletionChunk.model_validate_json(event, strict=True) for event in events]


def test_the_chunks_of_a_chat() -> None:
    made = chunks(ChatShape(), include_usage=True)
    end = finished(pb.FINISH_REASON_LENGTH)
    text = made.delta(pb.Delta(text="Hi"))
    assert text is not None
    *events, done = [*made.first(), text, made.end(end), *made.last(usage(end))]
    assert done == "[DONE]"
    read = read_chunks(events)
    assert {(one.id, one.created, one.model, one.system_fingerprint) for one in read} == {
        ("chatcmpl-gen-1", 1_795_000_000, "pocket:stable", "pocket@3")
    }
    first, delta, last, counts = read
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert delta.choices[0].delta.content == "Hi"
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == ("length", None)
    assert counts.choices == []
    assert counts.usage is not None
    assert counts.usage.total_tokens == 10
    assert ['"usage":null' in event for event in events] == [True, True, True, False]


def test_each_output_has_its_own_role_text_and_end() -> None:
    made = chunks(ChatShape(outputs=2))
    events = [
        *made.first(),
        made.delta(pb.Delta(index=1, text="b")),
        made.delta(pb.Delta(index=0, text="a")),
        made.end(finished(index=1, last=False)),
    ]
    read = [one.choices[0] for one in read_chunks([event for event in events if event])]
    assert [(one.index, one.delta.role, one.delta.content) for one in read] == [
        (0, "assistant", ""),
        (1, "assistant", ""),
        (1, None, "b"),
        (0, None, "a"),
        (1, None, None),
    ]
    assert read[-1].finish_reason == "stop"


def test_the_pieces_of_a_call_are_joined_within_a_chunk() -> None:
    """Clients join the pieces of different chunks only."""
    made = chunks(ChatShape())
    delta = made.delta(
        pb.Delta(
            tool_calls=[
                pb.ToolCall(index=0, id="c1", name="f", arguments="{"),
                pb.ToolCall(index=0, arguments="}"),
                pb.ToolCall(index=1, id="c2", name="g"),
            ]
        )
    )
    rest = made.delta(pb.Delta(tool_calls=[pb.ToolCall(index=1, arguments="{}")]))
    assert delta is not None
    assert rest is not None
    shown = [json.loads(one)["choices"][0]["delta"]["tool_calls"] for one in (delta, rest)]
    assert shown == [
        [
            {
                "index": 0,
                "id": "c1",
                "type": "function",
                "function": {"name": "f", "arguments": "{}"},
            },
            {
                "index": 1,
                "id": "c2",
                "type": "function",
                "function": {"name": "g", "arguments": ""},
            },
        ],
        [{"index": 1, "function": {"arguments": "{}"}}],
    ]
    read_chunks([delta, rest])


def test_reasoning_has_the_name_that_clients_of_other_servers_read() -> None:
    chunk = chunks(ChatShape()).delta(pb.Delta(reasoning_text="Hm", text="Hi"))
    assert chunk is not None
    assert json.loads(chunk)["choices"][0]["delta"] == {"reasoning_content": "Hm", "content": "Hi"}


def test_a_delta_with_nothing_to_tell_has_no_chunk() -> None:
    assert chunks(ChatShape()).delta(pb.Delta(token_ids=[1])) is None
    assert chunks(ChatShape(logprobs=True)).delta(pb.Delta(token_ids=[1])) is None
    assert chunks(TextShape()).delta(pb.Delta(token_ids=[1])) is None


def some_token(data: bytes, logprob: float | None, *top: pb.TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(bytes=data, logprob=logprob, top=top)


def test_the_log_probabilities_of_a_chat() -> None:
    half = some_token("ü".encode()[:1], -1.5, some_token(b"a", -0.25), some_token(b"b", -2.5))
    read = whole_chat(
        pb.CompleteResponse(text="x", logprobs=[half], finished=finished()), logprobs=True
    )
    assert read.choices[0].logprobs is not None
    assert read.choices[0].logprobs.model_dump()["content"] == [
        {
            "token": "\\xc3",
            "bytes": [0xC3],
            "logprob": -1.5,
            "top_logprobs": [
                {"token": "a", "bytes": [97], "logprob": -0.25},
                {"token": "b", "bytes": [98], "logprob": -2.5},
            ],
        }
    ]
    chunk = chunks(ChatShape(logprobs=True)).delta(pb.Delta(logprobs=[half]))
    assert chunk is not None
    (choice,) = read_chunks([chunk])[0].choices
    assert choice.logprobs is not None
    assert choice.logprobs.model_dump() == read.choices[0].logprobs.model_dump()
    assert choice.delta.content is None


PROMPT = [
    some_token(b"On", None),
    some_token("ü".encode()[:1], -1.5, some_token(b"a", -0.5)),
    some_token("ü".encode()[1:], -0.75, some_token("ü".encode()[1:], -0.75)),
]
AFTER = some_token(b" x", -0.125, some_token(b" x", -0.125))
ECHOED = {
    "tokens": ["On", "bytes:\\xc3", "bytes:\\xbc", " x"],
    "token_logprobs": [None, -1.5, -0.75, -0.125],
    "top_logprobs": [
        None,
        {"a": -0.5, "bytes:\\xc3": -1.5},
        {"bytes:\\xbc": -0.75},
        {" x": -0.125},
    ],
    "text_offset": [0, 2, 2, 3],
}


@pytest.mark.parametrize("prompt", [None, "Onü"])
def test_an_echo_has_the_log_probabilities_of_the_prompt(prompt: str | None) -> None:
    shape = TextShape(logprobs=True, echo=True, prompt=prompt)
    complete = pb.CompleteResponse(
        text=" x", logprobs=[AFTER], prompt_logprobs=PROMPT, finished=finished()
    )
    choices: Any = whole(origin(), [(shape, complete)])["choices"]
    assert choices[0]["text"] == "Onü x"
    assert choices[0]["logprobs"] == ECHOED
    made = chunks(shape)
    found = pb.PromptLogprobs(tokens=PROMPT[:2]), pb.PromptLogprobs(tokens=PROMPT[2:])
    events = [
        *made.first(),
        *(event for one in found for event in made.prompt(one)),
        made.delta(pb.Delta(text=" x", logprobs=[AFTER])),
    ]
    parts = [json.loads(event)["choices"][0] for event in events if event]
    assert "".join(one["text"] for one in parts) == "Onü x"
    joined = {
        name: [each for one in parts for each in (one["logprobs"] or {}).get(name, [])]
        for name in ECHOED
    }
    assert joined == ECHOED


def test_without_an_echo_offsets_begin_with_the_output() -> None:
    complete = pb.CompleteResponse(
        text=" x", logprobs=[AFTER], prompt_logprobs=PROMPT, finished=finished()
    )
    choices: Any = whole(origin(), [(TextShape(logprobs=True), complete)])["choices"]
    assert choices[0]["logprobs"]["tokens"] == [" x"]
    assert choices[0]["logprobs"]["text_offset"] == [0]


def test_usage_is_sent_only_where_it_was_asked_for() -> None:
    made = chunks(TextShape())
    assert made.first() == []
    events = [made.text(0, "Hi"), made.end(finished()), *made.last(usage(finished()))]
    assert len(events) == 3
    assert not any("usage" in event for event in events)
    assert Completion.model_validate_json(events[1]).choices[0].finish_reason == "stop"


@given(st.text(), st.text())
def test_any_text_is_in_its_chunk_on_one_line(text: str, model: str) -> None:
    for shape in (ChatShape(), TextShape()):
        chunk = chunks(shape, model).text(0, text)
        assert len(chunk.splitlines()) == 1
        assert chunk.isascii()
        choice = json.loads(chunk)["choices"][0]
        assert choice.get("text", choice.get("delta", {}).get("content")) == text


def test_a_model_that_looks_like_the_place_of_the_text() -> None:
    chunk = json.loads(chunks(ChatShape(), 'TEXT"TEXT"').text(0, "Hi"))
    assert chunk["model"] == 'TEXT"TEXT"'
    assert chunk["choices"][0]["delta"]["content"] == "Hi"


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("sampling.temperature", "temperature"),
        ("generation.sampling.logit_bias", "logit_bias"),
        ("generation.max_tokens", "max_tokens"),
        ("chat.messages[1].content", "messages.1.content"),
        ("chat.messages[1].tool_calls[0].arguments", "messages.1.tool_calls.0.function.arguments"),
        ("chat.messages[1].reasoning_text", "messages.1.reasoning_content"),
        ("chat.messages[1].tool_name", "messages.1.name"),
        ("generation.chat.messages[1].tool_call_id", "messages.1.tool_call_id"),
        ("chat", "chat"),
        ("json_schema", "response_format.json_schema.schema"),
        ("json_schema.properties.a", "response_format.json_schema.schema.properties.a"),
        ("json_object", "response_format"),
        ("tools[0].parameters_json_schema", "tools.0.function.parameters"),
        ("generation.tools[12].name", "tools.12.function.name"),
        ("tools[1]", "tools.1"),
        ("tools", "tools"),
        ("tool_choice.name", "tool_choice.function.name"),
        ("tool_choice.mode", "tool_choice"),
        ("logprobs.top", "top_logprobs"),
        ("reasoning.effort", "reasoning_effort"),
        ("choice.texts[1]", "choice.1"),
        ("regex", "regex"),
        ("n", "n"),
        ("response_format.type", "response_format.type"),
        ("tools.0.type", "tools.0.type"),
        ("stop", "stop"),
    ],
)
def test_errors_name_fields_as_openai_does(field: str, param: str) -> None:
    error = InvalidArgument(f"{field} must be something", field=field)
    body = chat_error_body(error, http_status(error))
    assert body == {
        "error": {
            "message": f"{param} must be something",
            "type": "invalid_request_error",
            "param": param,
            "code": "invalid_field",
        }
    }


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("tokens.token_ids[3]", "prompt[3]"),
        ("tokens", "prompt"),
        ("tokens_of_another_name", "tokens_of_another_name"),
        ("logprobs.top", "logprobs"),
        ("generation.max_tokens", "max_tokens"),
    ],
)
def test_errors_of_text_completions_name_their_own_fields(field: str, param: str) -> None:
    error = InvalidArgument(f"{field} must be something", field=field)
    body: Any = completion_error_body(error, http_status(error))
    assert (body["error"]["param"], body["error"]["message"]) == (
        param,
        f"{param} must be something",
    )


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
    assert position_of({**key, "last-event-id": "17.32"}) == Position(17, 32)
    assert position_of({**key, "last-event-id": "17@1f0c"}) == Position(17, 0, 0x1F0C)
    assert position_of({**key, "last-event-id": "17.2@ffffffff"}) == Position(17, 2, 2**32 - 1)
    for event_id in ("17", "17.2", "17@1f0c", "17.2@ffffffff"):
        assert str(position_of({**key, "last-event-id": event_id})) == event_id
    # A numbering is of the message that an event is of, in full or in part.
    assert Position(17, 0, 0x1F0C).numbered_sequence == 17
    assert Position(17, 2, 0x1F0C).numbered_sequence == 18


@pytest.mark.parametrize(
    "last",
    [
        *("", "x", "-1", "1.", "1.0", "1.01", "1.1000", "1.2.3", "1" * 19, "1 ", "١"),
        *("1@", "1@0", "1@0f", "1@1F", "1@g", "1@123456789", "1@-1", "1@1@1", "@1", "1@1.1"),
    ],
)
def test_an_illegal_position(last: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        position_of({"idempotency-key": "k", "last-event-id": last})
    assert caught.value.field == "last-event-id"


def test_a_position_needs_the_key_of_its_stream() -> None:
    with pytest.raises(InvalidArgument, match="idempotency-key"):
        position_of({"last-event-id": "1"})


def test_models_are_listed_with_their_aliases_and_adapters() -> None:
    model = Model(name="m", aliases={"old": 1, "default": 1}, default_version=2)
    model.versions.add(version=1, context_tokens=10)
    model.versions.add(version=2, context_tokens=20)
    model.adapters.add(name="french")
    listed = {each["id"]: each["max_model_len"] for each in model_objects(model)}
    assert listed == {"m": 20, "m:old": 10, "m:french": 20}
