"""Requests of the Responses API as generations, and what is kept of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseItem
from pydantic import TypeAdapter

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.schema import read_request
from mlxmesh_gateway.openai.errors import response_error_body
from mlxmesh_gateway.openai.responses import convert, ids
from mlxmesh_gateway.openai.responses.background import BackgroundReaders
from mlxmesh_gateway.openai.responses.events import ResponseEvents
from mlxmesh_gateway.openai.responses.input import input_items
from mlxmesh_gateway.openai.responses.objects import ResponseFacts
from mlxmesh_gateway.openai.responses.plan import planned
from mlxmesh_gateway.openai.responses.schema import ResponseRequest
from mlxmesh_shared.errors import (
    EngineLost,
    FeatureNotSupported,
    InvalidArgument,
    MeshError,
    NoReplica,
    TooManyRequests,
)
from mlxmesh_shared.rpc.error_status import to_failure

ID = f"resp_{'0' * 48}"
FACTS = ResponseFacts(id=ID, model="pocket")


def asked(**fields: Any) -> ResponseRequest:
    return read_request(ResponseRequest, {"model": "pocket", "input": "Hi", **fields})[0]


def generation(facts: ResponseFacts = FACTS, **fields: Any) -> pb.GenerateRequest:
    return convert.generation(asked(**fields), facts, ())


def roles_and_texts(request: pb.GenerateRequest) -> list[tuple[str, str]]:
    return [(pb.Role.Name(one.role)[5:].lower(), one.content) for one in request.chat.messages]


# Requests.


def test_a_text_is_a_message_of_the_user() -> None:
    request = generation(max_output_tokens=7, top_k=3, stop="x", seed=5)
    assert roles_and_texts(request) == [("user", "Hi")]
    assert (request.max_tokens, request.sampling.top_k, request.sampling.seed) == (7, 3, 5)
    assert list(request.stop) == ["x"]


def test_items_are_messages_with_parts() -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "Hel", "annotations": [], "logprobs": []},
                {"type": "output_text", "text": "lo", "annotations": []},
            ],
        },
    ]
    assert roles_and_texts(generation(input=items)) == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
    ]


def test_instructions_come_before_an_earlier_conversation() -> None:
    facts = ResponseFacts(id=ID, model="pocket", instructions="Be brief.")
    earlier = convert.with_output(
        [pb.ChatMessage(role=pb.ROLE_USER, content="Hi")], pb.CompleteResponse(text="Hello")
    )
    request = convert.generation(asked(input="And?"), facts, earlier)
    assert roles_and_texts(request) == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "And?"),
    ]
    assert [one.content for one in convert.conversation(request, facts)] == ["Hi", "Hello", "And?"]


@pytest.mark.parametrize(
    ("fields", "field", "kind"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", FeatureNotSupported),
        ({"tools": [{"type": "function"}]}, "tools.0.name", InvalidArgument),
        (
            {"tools": [{"type": "function", "name": "f", "defer_loading": True}]},
            "tools.0.defer_loading",
            FeatureNotSupported,
        ),
        ({"tool_choice": "any"}, "tool_choice", InvalidArgument),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type", FeatureNotSupported),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", InvalidArgument),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode", FeatureNotSupported),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", FeatureNotSupported),
        (
            {"text": {"format": {"type": "json_schema", "name": "a"}}},
            "text.format.schema",
            InvalidArgument,
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}},
            "text.format.name",
            InvalidArgument,
        ),
        ({"text": {"format": {"type": "json_object"}}, "regex": "a"}, "regex", InvalidArgument),
        ({"text": {"verbosity": "low"}}, "text.verbosity", FeatureNotSupported),
        ({"conversation": "conv_1"}, "conversation", FeatureNotSupported),
        ({"prompt": {"id": "p"}}, "prompt", FeatureNotSupported),
        ({"truncation": "auto"}, "truncation", FeatureNotSupported),
        ({"context_management": [{}]}, "context_management", FeatureNotSupported),
        ({"moderation": {}}, "moderation", FeatureNotSupported),
        ({"background_options": {}}, "background_options", FeatureNotSupported),
        ({"access_programs": {}}, "access_programs", FeatureNotSupported),
        (
            {"input": [{"type": "function_call_output", "output": "o"}]},
            "input.0.call_id",
            InvalidArgument,
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "c"}]},
            "input.0.output",
            InvalidArgument,
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]},
            "input.0.name",
            InvalidArgument,
        ),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "input.0.type", FeatureNotSupported),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": ""}]}]},
            "input.0.content.0.image_url",
            InvalidArgument,
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input.0.content.0.file_id",
            FeatureNotSupported,
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input.0.content.0.file_id",
            FeatureNotSupported,
        ),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role", InvalidArgument),
        ({"input": [{"content": "x"}]}, "input.0.role", InvalidArgument),
        ({"input": [{"role": "user"}]}, "input.0.content", InvalidArgument),
        ({"input": 5}, "input", InvalidArgument),
        ({"metadata": {"k" * 65: "v"}}, f"metadata.{'k' * 65}.[key]", InvalidArgument),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", InvalidArgument),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata", InvalidArgument),
        ({"max_output_tokens": -1}, "max_output_tokens", InvalidArgument),
        ({"background": "yes"}, "background", InvalidArgument),
    ],
)
def test_what_is_not_honoured_is_named(
    fields: dict[str, Any], field: str, kind: type[MeshError]
) -> None:
    with pytest.raises(kind) as caught:
        generation(**fields)
    assert caught.value.field == field


def test_defaults_and_what_changes_nothing_are_allowed() -> None:
    request = generation(
        tools=[],
        tool_choice="auto",
        parallel_tool_calls=True,
        reasoning={"effort": None, "summary": "auto"},
        top_logprobs=0,
        text={"format": {"type": "text"}, "verbosity": "medium"},
        include=["reasoning.encrypted_content"],
        truncation="disabled",
        prompt_cache_key="k",
        user="u",
        conversation=None,
    )
    assert request == generation()


ASKED_TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}


def test_options_are_those_of_the_contract() -> None:
    request = generation(
        tools=[ASKED_TOOL],
        tool_choice={"type": "function", "name": "get_weather"},
        parallel_tool_calls=False,
        reasoning={"effort": "low", "budget_tokens": 9},
        top_logprobs=3,
        session_id="s",
        labels={"team": "a"},
    )
    (tool,) = request.tools
    assert (tool.name, tool.description, tool.strict) == ("get_weather", "The weather.", True)
    assert json.loads(tool.parameters_json_schema) == ASKED_TOOL["parameters"]
    assert request.tool_choice == pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED, name="get_weather")
    assert request.HasField("parallel_tool_calls")
    assert not request.parallel_tool_calls
    assert request.reasoning == pb.Reasoning(effort=pb.REASONING_EFFORT_LOW, budget_tokens=9)
    assert request.logprobs == pb.Logprobs(top=3)
    assert (request.session_id, dict(request.labels)) == ("s", {"team": "a"})


def test_log_probabilities_are_asked_for_by_name_too() -> None:
    request = generation(include=["message.output_text.logprobs"])
    assert request.HasField("logprobs")
    assert request.logprobs == pb.Logprobs()


@pytest.mark.parametrize(
    ("text_format", "constraint"),
    [
        ({"type": "text"}, {}),
        ({"type": "json_object"}, {"json_object": pb.JsonObject()}),
        (
            {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True},
            {"json_schema": '{"type":"object"}'},
        ),
    ],
)
def test_formats_are_constraints(text_format: object, constraint: dict[str, Any]) -> None:
    expected = generation()
    expected.MergeFrom(pb.GenerateRequest(**constraint))
    assert generation(text={"format": text_format}) == expected


CALL_ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": "Weather?"},
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Look."}],
    },
    {"type": "message", "role": "assistant", "content": "I look."},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    {"type": "function_call", "call_id": "c2", "name": "g", "arguments": '{"a":1}'},
    {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    {
        "type": "function_call_output",
        "call_id": "c2",
        "output": [{"type": "input_text", "text": "su"}, {"type": "input_text", "text": "n"}],
    },
]
CALL_MESSAGES = [
    pb.ChatMessage(role=pb.ROLE_USER, content="Weather?"),
    pb.ChatMessage(
        role=pb.ROLE_ASSISTANT,
        reasoning_text="Look.",
        content="I look.",
        tool_calls=[
            pb.ToolCall(id="c1", name="f", arguments="{}"),
            pb.ToolCall(id="c2", name="g", arguments='{"a":1}'),
        ],
    ),
    pb.ChatMessage(role=pb.ROLE_TOOL, tool_call_id="c1", content="rain"),
    pb.ChatMessage(role=pb.ROLE_TOOL, tool_call_id="c2", content="sun"),
]


def test_reasoning_text_and_calls_are_one_message() -> None:
    assert list(generation(input=CALL_ITEMS).chat.messages) == CALL_MESSAGES


def test_reasoning_without_content_is_its_summary() -> None:
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Look."}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "message", "role": "assistant", "content": "a"},
        {"type": "message", "role": "assistant", "content": "b"},
    ]
    assert list(generation(input=items).chat.messages) == [
        pb.ChatMessage(
            role=pb.ROLE_ASSISTANT,
            reasoning_text="Look.",
            tool_calls=[pb.ToolCall(id="c1", name="f", arguments="{}")],
        ),
        pb.ChatMessage(role=pb.ROLE_ASSISTANT, content="a"),
        pb.ChatMessage(role=pb.ROLE_ASSISTANT, content="b"),
    ]


def test_input_items_come_back_as_they_were_sent() -> None:
    items = input_items(CALL_MESSAGES, ID)
    typed = TypeAdapter[Any](list[ResponseItem]).validate_python(items, strict=True)
    assert len({item.id for item in typed}) == len(items) == len(CALL_ITEMS)
    again = generation(input=items)
    assert list(again.chat.messages) == CALL_MESSAGES


def test_an_output_with_calls_goes_on() -> None:
    snapshot = pb.CompleteResponse(
        text="I look.", reasoning_text="Look.", tool_calls=CALL_MESSAGES[1].tool_calls
    )
    assert convert.with_output(CALL_MESSAGES[:1], snapshot) == CALL_MESSAGES[:2]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("max_tokens", "max_output_tokens"),
        ("generation.max_tokens", "max_output_tokens"),
        ("chat.messages[3].content", "input"),
        ("generation.chat.messages[3].tool_calls[0].arguments", "input"),
        ("chat", "input"),
        ("sampling.top_k", "top_k"),
        ("json_schema", "text.format.schema"),
        ("json_object", "text.format"),
        ("tools[0].parameters_json_schema", "tools.0.parameters"),
        ("tools[2].name", "tools.2.name"),
        ("tool_choice.name", "tool_choice.name"),
        ("tool_choice.mode", "tool_choice"),
        ("logprobs.top", "top_logprobs"),
        ("reasoning.enabled", "reasoning.effort"),
        ("reasoning.budget_tokens", "reasoning.budget_tokens"),
        ("choice.texts[1]", "choice.1"),
        ("stop[0]", "stop.0"),
    ],
)
def test_errors_name_the_field_that_the_client_sent(before: str, after: str) -> None:
    body: Any = response_error_body(InvalidArgument(f"{before} is long", field=before), 400)
    assert (body["error"]["message"], body["error"]["param"]) == (f"{after} is long", after)


# What is kept.


@pytest.mark.parametrize("instructions", [None, "", "Be brief."])
def test_the_facts_come_back_from_a_kept_request(instructions: str | None) -> None:
    facts = ResponseFacts(
        id=ID,
        model="pocket:best",
        instructions=instructions,
        background=True,
        previous_response_id="resp_0",
        metadata={"k": "\u00e4\u0000"},
        temperature=0.7,
        top_p=0.1,
        max_output_tokens=3,
    )
    request = generation(facts, model="pocket:best")
    request.request_id = ID
    convert.keep(request, facts)
    # A generation that was resumed at another instance has a fixed version.
    request.model = "pocket@1"
    assert convert.facts_of(request) == facts


def test_a_response_repeats_what_it_was_asked_for() -> None:
    fields: dict[str, Any] = {
        "tools": [ASKED_TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "none"},
        "top_logprobs": 2,
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}},
    }
    facts = ResponseFacts(id=ID, model="pocket", format=convert.format_facts(asked(**fields)))
    request = generation(facts, **fields)
    facts = convert.with_settings(facts, request)
    request.request_id = ID
    convert.keep(request, facts)
    assert "get_weather" not in request.client_data
    assert convert.facts_of(request) == facts
    body = convert.as_response(facts, pb.GetGenerationResponse())
    typed = Response.model_validate(body, strict=True)
    assert body["tools"] == [ASKED_TOOL]
    assert (typed.tool_choice, typed.parallel_tool_calls) == ("required", False)
    assert typed.reasoning is not None
    assert (typed.reasoning.effort, typed.top_logprobs) == ("none", 2)
    assert body["text"]["format"]["schema"] == {"type": "object"}
    assert body["text"]["format"]["name"] == "a"


def test_other_generations_are_no_responses() -> None:
    assert convert.facts_of(pb.GenerateRequest(request_id=ID)) is None
    own = pb.GenerateRequest(request_id="mine", client_data="not ours", keep_request=True)
    assert convert.facts_of(own) is None
    forged = pb.GenerateRequest(request_id=ID, client_data="not ours", keep_request=True)
    assert convert.facts_of(forged) is None


def started() -> pb.Started:
    message = pb.Started(request_id=ID)
    message.create_time.FromMilliseconds(1_700_000_000_900)
    return message


def test_a_response_on_its_way() -> None:
    facts = ResponseFacts(id=ID, model="pocket", background=True)
    snapshot = pb.GetGenerationResponse()
    assert convert.as_response(facts, snapshot)["status"] == "queued"
    snapshot.started.CopyFrom(started())
    assert convert.as_response(facts, snapshot)["status"] == "queued"
    snapshot.prefill_progress.processed_tokens = 5
    assert convert.as_response(facts, snapshot)["status"] == "in_progress"
    snapshot.text, snapshot.token_ids[:] = "a", [1]
    response = convert.as_response(facts, snapshot)
    assert (response["status"], response["output"][0]["content"][0]["text"]) == ("in_progress", "a")
    assert response["created_at"] == 1_700_000_000
    assert convert.runs(snapshot)


def test_a_response_that_failed() -> None:
    snapshot = pb.GetGenerationResponse(started=started(), text="a", token_ids=[1])
    snapshot.failure.CopyFrom(to_failure(EngineLost("it crashed")))
    response = convert.as_response(FACTS, snapshot)
    assert (response["status"], response["error"]["message"]) == ("failed", "it crashed")
    assert not convert.runs(snapshot)


def test_the_snapshot_equals_the_stream() -> None:
    events = ResponseEvents(FACTS)
    finished = pb.Finished(finish_reason=pb.FINISH_REASON_LENGTH)
    finished.usage.completion_tokens = 2
    finished.usage.reasoning_tokens = 1
    logprobs = [pb.TokenLogprob(bytes=b"a", logprob=-1), pb.TokenLogprob(bytes=b"b", logprob=-2)]
    for message in (
        pb.GenerateResponse(started=started()),
        pb.GenerateResponse(prefill_progress=pb.PrefillProgress(processed_tokens=1)),
        pb.GenerateResponse(delta=pb.Delta(reasoning_text="H")),
        pb.GenerateResponse(delta=pb.Delta(reasoning_text="m")),
        pb.GenerateResponse(delta=pb.Delta(text="a", token_ids=[1], logprobs=logprobs[:1])),
        pb.GenerateResponse(delta=pb.Delta(text="b", token_ids=[2], logprobs=logprobs[1:])),
        pb.GenerateResponse(
            delta=pb.Delta(tool_calls=[pb.ToolCall(id="c1", name="f", arguments="{")])
        ),
        pb.GenerateResponse(delta=pb.Delta(tool_calls=[pb.ToolCall(arguments="}")])),
        pb.GenerateResponse(delta=pb.Delta(tool_calls=[pb.ToolCall(index=1, id="c2", name="g")])),
        pb.GenerateResponse(finished=finished),
    ):
        convert.feed(events, message)
    complete = pb.CompleteResponse(
        started=started(),
        text="ab",
        token_ids=[1, 2],
        reasoning_text="Hm",
        logprobs=logprobs,
        tool_calls=[
            pb.ToolCall(id="c1", name="f", arguments="{}"),
            pb.ToolCall(index=1, id="c2", name="g"),
        ],
        finished=finished,
    )
    assert convert.as_response(FACTS, complete) == events.response


def test_reasoning_beside_the_end_of_a_call_comes_after_it() -> None:
    events = ResponseEvents(FACTS)
    call = pb.ToolCall(id="c1", name="f", arguments="{")
    for message in (
        pb.GenerateResponse(started=started()),
        pb.GenerateResponse(delta=pb.Delta(tool_calls=[call])),
        pb.GenerateResponse(
            delta=pb.Delta(reasoning_text="Hm", tool_calls=[pb.ToolCall(arguments="}")])
        ),
        pb.GenerateResponse(finished=pb.Finished(finish_reason=pb.FINISH_REASON_TOOL_CALLS)),
    ):
        convert.feed(events, message)
    first, second = events.response["output"]
    assert (first["call_id"], first["arguments"]) == ("c1", "{}")
    assert second["content"][0]["text"] == "Hm"


# Ids.


def test_an_idempotency_key_always_gives_the_same_id() -> None:
    headers = {"idempotency-key": "k"}
    assert ids.new_response_id(headers) == ids.new_response_id(headers)
    assert ids.new_response_id({}) != ids.new_response_id({})
    for one in (ids.new_response_id(headers), ids.new_response_id({})):
        assert ids.is_response_id(one)
    with pytest.raises(InvalidArgument) as caught:
        ids.new_response_id({"idempotency-key": ""})
    assert caught.value.field == "idempotency-key"


def test_where_a_stream_is_resumed() -> None:
    assert ids.after_event({}, {}) == ids.EventPosition(-1, 0, 0)
    assert ids.after_event({"last-event-id": "7"}, {}) == ids.EventPosition(7)
    both = ids.after_event({"last-event-id": "7"}, {"starting_after": "3"})
    assert both == ids.EventPosition(3)
    for position in (ids.EventPosition(7), ids.EventPosition(7, 5, 0x1F0C)):
        assert ids.after_event({"last-event-id": str(position)}, {}) == position
        assert ids.after_event({}, {"starting_after": str(position)}) == position
    for text in ("", "-1", "1.5", "1@7", "1.5@0", "x", "9" * 19, "\u0664"):
        with pytest.raises(InvalidArgument) as caught:
            ids.after_event({}, {"starting_after": text})
        assert caught.value.field == "starting_after"


def test_queries() -> None:
    query = ids.query_of(b"stream=true&starting_after=3&include%5B%5D=x&stream=false")
    assert query == {"stream": "false", "starting_after": "3", "include[]": "x"}
    assert ids.wants_stream({"stream": "true"})
    assert not ids.wants_stream({})
    with pytest.raises(InvalidArgument):
        ids.wants_stream({"stream": "1"})


# Background readers.


async def test_a_stream_is_read_to_its_end_in_the_background() -> None:
    readers, go_on, read = BackgroundReaders(), asyncio.Event(), list[bytes]()

    async def stream(write: Any) -> None:
        for message in (b"1", b"2"):
            await write(message)
            read.append(message)
            await go_on.wait()
        raise EngineLost("its failure is retained with the response")

    await readers.start(stream)
    assert (len(readers), read) == (1, [b"1"])
    go_on.set()
    async with asyncio.timeout(30):
        while len(readers):
            await asyncio.sleep(0)
    assert read == [b"1", b"2"]


async def test_a_stream_without_a_message_fails_at_once() -> None:
    async def stream(_write: Any) -> None:
        raise NoReplica("there is none")

    readers = BackgroundReaders()
    with pytest.raises(NoReplica):
        await readers.start(stream)
    assert len(readers) == 0


async def endless(write: Any) -> None:
    await write(b"1")
    await asyncio.Event().wait()


async def test_beyond_the_limit_they_are_refused() -> None:
    """Else they would go on without being counted."""
    readers = BackgroundReaders(max_readers=1)
    await readers.start(endless)
    with pytest.raises(TooManyRequests) as caught:
        await readers.start(endless)
    assert caught.value.retry_delay_s
    assert len(readers) == 1
    await readers.close()


async def test_closing_ends_streams_before_it_returns() -> None:
    readers, ended = BackgroundReaders(), list[str]()

    async def stream(write: Any) -> None:
        try:
            await endless(write)
        finally:
            await asyncio.sleep(0)
            ended.append("counted")

    await readers.start(stream)
    await readers.close()
    assert ended == ["counted"]
    assert len(readers) == 0


async def test_a_stream_is_read_on_after_its_follower_has_left() -> None:
    readers, go_on = BackgroundReaders(), asyncio.Event()
    written, read = list[bytes](), list[bytes]()

    async def stream(write: Any) -> None:
        for message in (b"1", b"2"):
            await write(message)
            read.append(message)
            await go_on.wait()

    async def write(message: bytes) -> None:
        written.append(message)

    following = asyncio.create_task(readers.follow(stream, write))
    async with asyncio.timeout(30):
        while not read:
            await asyncio.sleep(0)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        go_on.set()
        while len(readers):
            await asyncio.sleep(0)
    assert (written, read) == ([b"1"], [b"1", b"2"])


def test_mcp_tools_are_refused_where_no_gateway_waits() -> None:
    """Else a batch would drop them without a word."""
    request = asked(tools=[{"type": "mcp", "server_label": "web"}])
    with pytest.raises(FeatureNotSupported) as caught:
        planned(request, FACTS)
    assert caught.value.field == "tools.0.type"
