"""OpenAI's client at the real HTTP server, with scripted generations behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, pydantic_function_tool
from pydantic import BaseModel

from mlxmesh.generation.v1 import generation_pb2 as g
from tests.fakes.door import FakeDoor
from tests.fakes.http_edges import serving_edges
from tests.fakes.scripted import Script, call, delta, finished, prompt, token

MESSAGES: Any = [{"role": "user", "content": "a"}]
CHAT: Any = {"model": "pocket", "messages": MESSAGES}
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALLS: Script = [
    delta(reasoning="Hm"),
    delta(reasoning="m."),
    delta("I look."),
    delta(calls=[call(0, "", name="get_weather"), call(0, '{"city":')]),
    delta(calls=[call(0, '"Bern"}')]),
    delta(calls=[call(1, '{"city":"Rom"}', name="get_weather")]),
    finished(g.FINISH_REASON_TOOL_CALLS),
]
ARGUMENTS = ['{"city":"Bern"}', '{"city":"Rom"}']


class Weather(BaseModel):
    """Where to look."""

    city: str


class Served:
    """The server's URL, what it was asked, and a client of it."""

    def __init__(self, url: str, door: FakeDoor, client: AsyncOpenAI) -> None:
        self.url = url
        self.door = door
        self.client = client

    def asked(self) -> g.GenerateRequest:
        """The last generation."""
        request: Any = self.door.requests[-1]
        return request.generation if isinstance(request, g.CompleteRequest) else request


@asynccontextmanager
async def serving(script: Script | None = None) -> AsyncGenerator[Served]:
    door = FakeDoor(script)
    async with (
        serving_edges(door) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        yield Served(url, door, client)


# Chats.


async def test_a_whole_chat_with_calls() -> None:
    async with serving(CALLS) as served:
        answer = await served.client.chat.completions.create(**CHAT, tools=TOOLS)
        assert served.asked().tools[0].name == "get_weather"
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    assert (choice.message.model_extra or {})["reasoning_content"] == "Hmm."
    calls: Any = choice.message.tool_calls
    assert [(one.id, one.function.name) for one in calls] == [
        ("call_1", "get_weather"),
        ("call_2", "get_weather"),
    ]
    assert [one.function.arguments for one in calls] == ARGUMENTS
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 2


async def test_the_streaming_helper_joins_the_pieces_of_calls() -> None:
    async with (
        serving(CALLS) as served,
        served.client.chat.completions.stream(
            **CHAT,
            tools=[pydantic_function_tool(Weather, name="get_weather")],
            stream_options={"include_usage": True},
        ) as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    (choice,) = final.choices
    calls: Any = choice.message.tool_calls
    assert [one.function.arguments for one in calls] == ARGUMENTS
    assert [one.function.parsed_arguments for one in calls] == [
        Weather(city="Bern"),
        Weather(city="Rom"),
    ]
    assert (choice.message.content, choice.finish_reason) == ("I look.", "tool_calls")
    assert (choice.message.model_extra or {})["reasoning_content"] == "Hmm."
    done = [one for one in events if one.type == "tool_calls.function.arguments.done"]
    assert [(one.index, one.arguments) for one in done] == list(enumerate(ARGUMENTS))
    assert final.usage is not None
    assert final.usage.total_tokens == 12


async def test_a_format_is_parsed() -> None:
    script = [delta('{"city":'), delta('"Bern"}'), finished()]
    async with serving(script) as served:
        answer = await served.client.chat.completions.parse(**CHAT, response_format=Weather)
        schema = json.loads(served.asked().json_schema)
    assert answer.choices[0].message.parsed == Weather(city="Bern")
    assert schema["properties"]["city"]["type"] == "string"


async def test_several_outputs_have_log_probabilities_and_ends_of_their_own() -> None:
    script = [
        delta("a", index=1, logprobs=[token("a", -1, token("b", -0.5))]),
        delta("", index=0, logprobs=[token("ü".encode()[:1], -2)]),
        finished(g.FINISH_REASON_STOP, index=1, last=False),
        delta("ü", index=0, logprobs=[token("ü".encode()[1:], -3)]),
        finished(index=0),
    ]
    asked: Any = {**CHAT, "n": 2, "logprobs": True, "top_logprobs": 1}
    async with serving(script) as served:
        whole = await served.client.chat.completions.create(**asked)
        async with served.client.chat.completions.stream(
            **asked, stream_options={"include_usage": True}
        ) as stream:
            chunks = [one.chunk async for one in stream if one.type == "chunk"]
            final = await stream.get_final_completion()
        assert (served.asked().n, served.asked().logprobs.top) == (2, 1)
    for answer in (whole, final):
        shown = [(one.index, one.message.content, one.finish_reason) for one in answer.choices]
        assert shown == [(0, "ü", "stop"), (1, "a", "stop")]
        found: Any = [one.logprobs for one in answer.choices]
        assert [[each.logprob for each in one.content] for one in found] == [[-2, -3], [-1]]
        assert found[1].content[0].top_logprobs[0].token == "b"
        assert found[0].content[0].bytes == [0xC3]
    roles = [one.choices[0].index for one in chunks if one.choices and one.choices[0].delta.role]
    assert roles == [0, 1]
    assert [bool(one.usage) for one in chunks] == [False] * (len(chunks) - 1) + [True]
    assert whole.usage == final.usage


@pytest.mark.parametrize(
    ("script", "asked"),
    [
        (CALLS, {"tools": TOOLS}),
        (
            [
                delta("a", index=1, logprobs=[token("a", -1)]),
                finished(index=1, last=False),
                delta("b", index=0, logprobs=[token("b", -1)]),
                finished(),
            ],
            {"n": 12, "logprobs": True},
        ),
    ],
)
async def test_a_chat_is_resumed_after_any_event(script: Script, asked: dict[str, Any]) -> None:
    async with serving(script) as served:
        await check_resuming(served, "chat/completions", {**CHAT, **asked})


async def test_a_text_is_resumed_after_any_event() -> None:
    """Offsets are those of the whole text."""
    script = [
        prompt(token("On", None), token("ce", -1)),
        prompt(token(" u", -2)),
        delta(" x", logprobs=[token(" x", -3)]),
        delta(" y", logprobs=[token(" y", -4)]),
        finished(),
    ]
    asked = {"model": "pocket", "prompt": "Once u", "echo": True, "logprobs": 2, "n": 1}
    async with serving(script) as served:
        await check_resuming(served, "completions", asked)


async def check_resuming(served: Served, path: str, asked: dict[str, Any]) -> None:
    body = {**asked, "stream": True, "stream_options": {"include_usage": True}}
    key = {"idempotency-key": "k"}
    async with httpx2.AsyncClient() as http:

        async def events(**headers: str) -> list[str]:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            response = await http.post(f"{served.url}/v1/{path}", json=body, headers=key | named)
            assert response.status_code == 200, response.text
            return response.text.split("\n\n")[:-1]

        whole = [
            one.replace('"id":"chatcmpl-k"', "").replace("cmpl-k", "") for one in await events()
        ]
        ids = [one.rpartition("id: ")[2] for one in whole]
        assert len(set(ids)) == len(ids) > 4
        data = [one.partition('"choices"')[2] for one in whole]
        for number, event_id in enumerate(ids, 1):
            rest = await events(last_event_id=event_id)
            assert [one.partition('"choices"')[2] for one in rest] == data[number:]


# Text completions.


async def test_the_log_probabilities_of_a_prompt_are_what_harnesses_read() -> None:
    script = [
        prompt(
            token("On", None),
            token("ce", -1.5, token("ce", -1.5)),
            token(" u", -2, token(" a", -0.5)),
        ),
        delta(" x", logprobs=[token(" x", -3, token(" x", -3))]),
        finished(g.FINISH_REASON_LENGTH),
    ]
    async with serving(script) as served:
        answer = await served.client.completions.create(
            model="pocket",
            prompt=[[5, 6, 7], [5, 6, 7]],
            max_tokens=1,
            temperature=0,
            logprobs=1,
            echo=True,
        )
        requests: Any = served.door.requests
        assert [list(one.generation.tokens.token_ids) for one in requests] == [[5, 6, 7]] * 2
    assert [one.index for one in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.text == "Once u x"
        assert choice.logprobs is not None
        assert choice.logprobs.tokens == ["On", "ce", " u", " x"]
        assert choice.logprobs.token_logprobs == [None, -1.5, -2, -3]
        assert choice.logprobs.top_logprobs == [
            None,
            {"ce": -1.5},
            {" a": -0.5, " u": -2},
            {" x": -3},
        ]
        assert choice.logprobs.text_offset == [0, 2, 4, 6]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 14


async def test_several_prompts_in_one_stream() -> None:
    script = [delta("x"), delta("y", index=1), finished(index=1, last=False), finished()]
    async with serving(script) as served:
        stream = await served.client.completions.create(
            model="pocket",
            prompt=["a ", "b "],
            n=2,
            echo=True,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        with pytest.raises(openai.BadRequestError) as caught:
            await served.client.completions.create(
                model="pocket",
                prompt=["a", "b"],
                stream=True,
                extra_headers={"Idempotency-Key": "k", "Last-Event-ID": "1"},
            )
    assert caught.value.param == "last-event-id"
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert texts == {0: "a x", 1: "a y", 2: "b x", 3: "b y"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 14


async def test_one_prompt_that_fails_ends_the_others() -> None:
    async with serving() as served:
        for stream in (False, True):
            with pytest.raises(openai.NotFoundError):
                await served.client.completions.create(
                    model="nobody", prompt=["a", "b"], stream=stream
                )


# Responses.


async def test_a_response_with_calls() -> None:
    tools: Any = [{"type": "function", **TOOLS[0]["function"]}]
    asked: Any = {"model": "pocket", "input": "a", "tools": tools, "tool_choice": "required"}
    async with serving(CALLS) as served:
        whole = await served.client.responses.create(**asked)
        async with served.client.responses.stream(**asked) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
    for response in (whole, final):
        reasoning, message, *calls = response.output
        assert reasoning.type == "reasoning"
        assert reasoning.content is not None
        assert reasoning.content[0].text == "Hmm."
        assert message.type == "message"
        assert response.output_text == "I look."
        assert [(one.call_id, one.arguments) for one in calls if one.type == "function_call"] == [
            ("call_1", ARGUMENTS[0]),
            ("call_2", ARGUMENTS[1]),
        ]
        assert response.tool_choice == "required"
        assert response.usage is not None
        assert response.usage.output_tokens_details.reasoning_tokens == 2
    kinds = [event.type for event in events]
    assert kinds.count("response.function_call_arguments.delta") == 3
    assert kinds.count("response.reasoning_text.delta") == 2
    assert (
        kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 4
    )


async def test_a_response_is_parsed() -> None:
    script = [delta('{"city":'), delta('"Bern"}'), finished()]
    async with serving(script) as served:
        response = await served.client.responses.parse(
            model="pocket", input="a", text_format=Weather
        )
    assert response.output_parsed == Weather(city="Bern")


async def test_the_log_probabilities_of_a_response() -> None:
    script = [
        delta("a", logprobs=[token("a", -1, token("b", -0.5))]),
        delta("", logprobs=[token("ü".encode()[:1], -2)]),
        delta("ü", logprobs=[token("ü".encode()[1:], -3)]),
        finished(),
    ]
    async with serving(script) as served:
        stream = await served.client.responses.create(
            model="pocket",
            input="a",
            top_logprobs=1,
            include=["message.output_text.logprobs"],
            stream=True,
        )
        events = [event async for event in stream]
    deltas = [one for one in events if one.type == "response.output_text.delta"]
    assert [[each.logprob for each in one.logprobs] for one in deltas] == [[-1], [-2, -3]]
    (done,) = [one for one in events if one.type == "response.output_text.done"]
    assert [one.logprob for one in done.logprobs] == [-1, -2, -3]


# What is illegal.


def function(**fields: object) -> list[object]:
    return [{"type": "function", "function": {"name": "f", **fields}}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 33}, "n"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"regex": ""}, "regex"),
        ({"regex": "a" * 65_537}, "regex"),
        ({"grammar": ""}, "grammar"),
        ({"grammar": "a" * 262_145}, "grammar"),
        ({"choice": []}, "choice"),
        ({"choice": ["a"] * 1025}, "choice"),
        ({"choice": ["a", ""]}, "choice.1"),
        ({"session_id": "a b"}, "session_id"),
        ({"labels": {"Team": "a"}}, "labels[*]"),
        ({"labels": {"a": "a" * 257}}, "labels[*]"),
        ({"labels": {str(number): "" for number in range(17)}}, "labels"),
        ({"tools": function() * 129}, "tools"),
        ({"tools": function(name="a b")}, "tools.0.function.name"),
        ({"tools": function(description="a" * 65_537)}, "tools.0.function.description"),
        (
            {"tools": function(parameters={"title": "a" * 262_144})},
            "tools.0.function.parameters",
        ),
        (
            {"tools": function(), "tool_choice": {"type": "function", "function": {"name": "a b"}}},
            "tool_choice.function.name",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"title": "a" * 262_144}},
                }
            },
            "response_format.json_schema.schema",
        ),
        ({"reasoning": {"budget_tokens": 0}}, "reasoning.budget_tokens"),
        ({"reasoning": {"budget_tokens": 1_000_001}}, "reasoning.budget_tokens"),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "a" * 129}]},
            "messages.0.tool_call_id",
        ),
        ({"messages": [{"role": "tool", "content": "x", "name": "a b"}]}, "messages.0.name"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {
                                "id": "a" * 129,
                                "type": "function",
                                "function": {"name": "f", "arguments": "{}"},
                            }
                        ],
                    }
                ]
            },
            "messages.0.tool_calls.0.id",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "a", "function": {"name": "a b", "arguments": "{}"}}],
                    }
                ]
            },
            "messages.0.tool_calls.0.function.name",
        ),
    ],
)
async def test_values_beyond_the_contract_are_named_as_openai_does(
    fields: dict[str, Any], param: str
) -> None:
    async with serving() as served:
        body = {**CHAT, **fields}
        messages = body.pop("messages")
        with pytest.raises(openai.BadRequestError) as caught:
            await served.client.chat.completions.create(
                model="pocket", messages=messages, extra_body=body
            )
    assert caught.value.param == param
    assert param in caught.value.message


async def test_metadata_that_cannot_be_labels_is_told() -> None:
    async with serving() as served:
        raw = await served.client.chat.completions.with_raw_response.create(
            **CHAT, metadata={"team": "a", "Team": "b", "my key": "c", "ü": "d"}
        )
        assert dict(served.asked().labels) == {"team": "a"}
    # Of the last two keys, a header can only name the field.
    assert raw.headers["mlxmesh-ignored-fields"] == "metadata.Team, metadata"


@pytest.mark.parametrize(
    ("fields", "user", "ignored"),
    [
        ({"user": "ada"}, "ada", None),
        ({"safety_identifier": "hash"}, "hash", None),
        ({"metadata": {"user": "eve"}, "user": "ada"}, "ada", None),
        ({"metadata": {"user": "eve"}}, "eve", None),
        ({"user": "x" * 257}, None, "user"),
    ],
)
async def test_the_user_is_a_label(fields: Any, user: str | None, ignored: str | None) -> None:
    async with serving() as served:
        raw = await served.client.chat.completions.with_raw_response.create(**CHAT, **fields)
        assert served.asked().labels.get("user") == user
    assert raw.headers.get("mlxmesh-ignored-fields") == ignored


async def test_the_user_of_a_text_completion_is_a_label() -> None:
    async with serving() as served:
        await served.client.completions.create(model="pocket", prompt="Hi", user="ada")
        assert dict(served.asked().labels) == {"user": "ada"}
