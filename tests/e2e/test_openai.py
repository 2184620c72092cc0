"""OpenAI's Python client at a whole mesh: its answers are those of gRPC."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from pydantic import BaseModel, Field

from mlxmesh.generation.v1.generation_pb2 import CompleteResponse
from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh

PROMPT = "Once upon a time there was a garden"
MESSAGES: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": PROMPT}]
TURNS = [("system", "Be kind."), ("user", PROMPT)]
GREEDY: dict[str, Any] = {"temperature": 0}
SEEDED: dict[str, Any] = {"temperature": 1, "seed": 7, "top_p": 0.9, "presence_penalty": 0.5}
MAX_TOKENS = 60
TIMEOUT_S = 60


def url_of(mesh: RunningMesh) -> str:
    return f"http://{mesh.http}/v1"


@pytest.fixture
async def client(mesh: RunningMesh) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url_of(mesh), api_key="any", max_retries=0) as client:
        yield client


async def by_grpc(mesh: RunningMesh, sampling: dict[str, Any]) -> CompleteResponse:
    async with MeshClient(mesh.address) as grpc:
        return await grpc.complete("pocket", messages=TURNS, max_tokens=MAX_TOKENS, **sampling)


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
async def test_a_streamed_chat_is_that_of_grpc(
    mesh: RunningMesh, client: AsyncOpenAI, sampling: dict[str, Any]
) -> None:
    expected = await by_grpc(mesh, sampling)
    stream = await client.chat.completions.create(
        model="pocket",
        messages=MESSAGES,
        max_completion_tokens=MAX_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
        **sampling,
    )
    *chunks, last = [chunk async for chunk in stream]
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == expected.text
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len(expected.token_ids)
    assert last.usage.prompt_tokens == expected.finished.usage.prompt_tokens


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
async def test_a_whole_chat_is_that_of_grpc(mesh: RunningMesh, sampling: dict[str, Any]) -> None:
    expected = await by_grpc(mesh, sampling)

    def ask() -> Any:
        with OpenAI(base_url=url_of(mesh), api_key="any", max_retries=0) as client:
            return client.chat.completions.create(
                model="pocket@1", messages=MESSAGES, max_tokens=MAX_TOKENS, **sampling
            )

    answer = await asyncio.to_thread(ask)
    assert answer.choices[0].message.content == expected.text
    assert answer.usage.completion_tokens == len(expected.token_ids)


async def test_a_text_is_continued_as_by_grpc(mesh: RunningMesh, client: AsyncOpenAI) -> None:
    async with MeshClient(mesh.address) as grpc:
        expected = await grpc.complete("pocket", prompt=PROMPT, max_tokens=16)
        counted = await grpc.count_tokens("pocket", prompt=PROMPT, return_token_ids=True)
    token_ids = list(counted.token_ids)
    prompts: list[Any] = [PROMPT, [PROMPT], token_ids, [token_ids]]
    for prompt in prompts:
        answer = await client.completions.create(model="pocket", prompt=prompt, temperature=0)
        assert answer.choices[0].text == expected.text
        assert answer.choices[0].finish_reason == "length"


async def test_a_prompt_that_was_read_before_is_counted_as_cached(client: AsyncOpenAI) -> None:
    long = " ".join(f"word{number}" for number in range(200))
    cached: list[int] = []
    for _ in range(2):
        answer = await client.completions.create(model="pocket", prompt=long, max_tokens=1)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached.append(answer.usage.prompt_tokens_details.cached_tokens or 0)
    assert cached[0] == 0 < cached[1]


async def test_a_client_that_leaves_frees_its_place(slow_mesh: RunningMesh) -> None:
    async with AsyncOpenAI(base_url=url_of(slow_mesh), api_key="any", max_retries=0) as client:
        stream = await client.completions.create(
            model="pocket", prompt=PROMPT, max_tokens=10_000, stream=True
        )
        await anext(stream)
        async with asyncio.timeout(TIMEOUT_S):
            while await running_sequences(slow_mesh) != 1:
                await asyncio.sleep(0.05)
        await stream.close()
        async with asyncio.timeout(TIMEOUT_S):
            while await running_sequences(slow_mesh):
                await asyncio.sleep(0.05)


@pytest.fixture
def slow_mesh(tmp_path: Path) -> Iterator[RunningMesh]:
    """Its generations take hours."""
    env = {"MLXMESH_ENGINE_BACKEND": "simulated", "MLXMESH_ENGINE_SIMULATED_STEP_MS": "2000"}
    running = start_mesh(tmp_path, env=env)
    yield running
    stop_mesh(running)


async def running_sequences(mesh: RunningMesh) -> int:
    status = await asyncio.to_thread(mesh.status)
    (engine,) = [row for row in status["instances"] if row["service"] == "engine"]
    return engine["load"]["running"]


async def test_errors_are_the_clients_own(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="nix", messages=MESSAGES)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as long:
        await client.completions.create(model="pocket", prompt="word " * 40_000)
    assert (long.value.code, long.value.param) == ("context_too_long", "prompt")
    with pytest.raises(openai.BadRequestError) as hot:
        await client.chat.completions.create(model="pocket", messages=MESSAGES, temperature=11)
    assert hot.value.param == "temperature"


async def test_the_models_are_listed(client: AsyncOpenAI) -> None:
    models = {one.id: one async for one in await client.models.list()}
    assert {"pocket", "pocket-mini"} <= models.keys()
    assert models["pocket"].created > 1_700_000_000
    assert (await client.models.retrieve("pocket@1")).created == models["pocket"].created


def chat_body(**fields: object) -> dict[str, object]:
    return {
        "model": "pocket",
        "messages": MESSAGES,
        "max_tokens": MAX_TOKENS,
        "seed": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }


async def events_of(
    mesh: RunningMesh, headers: dict[str, str], *, most: int = 10_000, **fields: object
) -> list[str]:
    """The events of a stream; after `most` of them the connection is cut."""
    events: list[str] = []
    await read_into(events, mesh, headers, most=most, **fields)
    return events[:most]


async def read_into(
    events: list[str], mesh: RunningMesh, headers: dict[str, str], *, most: int, **fields: object
) -> None:
    text, url = "", f"{url_of(mesh)}/chat/completions"
    async with (
        httpx2.AsyncClient(timeout=TIMEOUT_S) as http,
        http.stream("POST", url, json=chat_body(**fields), headers=headers) as response,
    ):
        if response.status_code == 503:
            return  # a gateway that has just begun knows no instance yet
        assert response.status_code == 200
        async for part in response.aiter_text():
            *whole, text = (text + part).split("\n\n")
            events += [event for event in whole if not event.startswith(": ")]
            if len(events) >= most:
                break


def last_id(events: list[str]) -> dict[str, str]:
    return {"last-event-id": events[-1].rpartition("id: ")[2]} if events else {}


async def test_a_stream_that_is_cut_after_any_event_is_resumed(mesh: RunningMesh) -> None:
    cuts = 0
    for most in range(1, 100):
        key = {"idempotency-key": f"cut after {most}"}
        before = await events_of(mesh, key, most=most)
        if before[-1].startswith("data: [DONE]"):
            break
        rest = await events_of(mesh, {**key, **last_id(before)})
        # The same request again replays the whole stream.
        assert before + rest == await events_of(mesh, key)
        cuts += 1
    assert cuts >= 4


async def test_streams_are_resumed_after_their_gateway_was_killed(mesh: RunningMesh) -> None:
    keys = [{"idempotency-key": f"killed {number}"} for number in range(8)]
    fields: dict[str, Any] = {"max_tokens": 1_000, "ignore_eos": True}
    streams: list[list[str]] = [[] for _ in keys]

    async def read(events: list[str], key: dict[str, str]) -> None:
        while not (events and events[-1].startswith("data: [DONE]")):
            with suppress(httpx2.TransportError):
                last = {**key, **last_id(events)}
                await read_into(events, mesh, last, most=10_000, **fields)
            await asyncio.sleep(0.05)

    reading = [asyncio.create_task(read(*each)) for each in zip(streams, keys, strict=True)]
    async with asyncio.timeout(TIMEOUT_S):
        pid = await asyncio.to_thread(mesh.pid, "gateway")
        while not all(len(events) > 5 for events in streams):
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        assert not any(task.done() for task in reading), "they ended before the gateway did"
        await asyncio.gather(*reading)
    for events, key in zip(streams, keys, strict=True):
        assert events == await events_of(mesh, key, **fields)


async def test_a_stream_is_resumed_with_its_own_request_only(mesh: RunningMesh) -> None:
    key = {"idempotency-key": "one request"}
    whole = await events_of(mesh, key)
    async with httpx2.AsyncClient(timeout=TIMEOUT_S) as http:
        for more in ({}, {"last-event-id": "1"}):
            other = await http.post(
                f"{url_of(mesh)}/chat/completions",
                json=chat_body(seed=4),
                headers={**key, **more},
            )
            assert other.status_code == 409
            assert other.json()["error"]["code"] == "generation_exists"
    assert await events_of(mesh, {**key, **last_id(whole)}) == []


async def test_a_whole_chat_with_a_key_is_generated_once(client: AsyncOpenAI) -> None:
    answers = [
        await client.chat.completions.create(
            model="pocket", messages=MESSAGES, extra_headers={"idempotency-key": "once"}
        )
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert answers[0].id == "chatcmpl-once"


async def test_streams_survive_their_engine(mesh: RunningMesh, client: AsyncOpenAI) -> None:
    """The last test of this mesh: its engine is another one afterwards."""
    options: dict[str, Any] = {"model": "pocket", "prompt": PROMPT, "max_tokens": 2_000}
    options |= {"temperature": 0, "extra_body": {"ignore_eos": True}}

    async def read(kill: bool) -> str:
        stream = await client.completions.create(**options, stream=True)
        texts: list[str] = []
        async for chunk in stream:
            if kill and len(texts) == 5:
                os.kill(await asyncio.to_thread(mesh.pid, "engine"), signal.SIGKILL)
            texts.append(chunk.choices[0].text)
        return "".join(texts)

    assert await read(kill=True) == await read(kill=False)


# Answers in the right shape.


class Place(BaseModel):
    """A place to look at."""

    city: str = Field(max_length=20)
    floor: Literal[1, 2, 3]


SHAPED: dict[str, Any] = {"model": "pocket", "max_tokens": 400, "seed": 3}
LOOK: Any = [{"role": "user", "content": "What is the weather in Bern?"}]
LOOK_UP = pydantic_function_tool(Place, name="look_up", description="Looks at a place.")


async def test_a_format_is_parsed(client: AsyncOpenAI) -> None:
    for temperature in (0, 1.5):
        answer = await client.chat.completions.parse(
            **SHAPED, messages=MESSAGES, temperature=temperature, response_format=Place
        )
        (choice,) = answer.choices
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, Place)


async def test_a_json_object_is_one(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        **SHAPED, messages=MESSAGES, temperature=0, response_format={"type": "json_object"}
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    else:
        assert answer.choices[0].finish_reason == "length"


async def test_extra_constraints_hold(client: AsyncOpenAI) -> None:
    for extra, pattern in (
        ({"regex": "[a-c]{3}-[0-9]{2}"}, "[a-c]{3}-[0-9]{2}"),
        ({"choice": ["yes", "no"]}, "yes|no"),
        ({"grammar": 'start: "x" /[0-9]{4}/'}, "x[0-9]{4}"),
    ):
        answer = await client.chat.completions.create(
            **SHAPED, messages=MESSAGES, temperature=1.5, extra_body=extra
        )
        assert answer.choices[0].finish_reason == "stop"
        assert re.fullmatch(pattern, answer.choices[0].message.content or "")


async def test_the_streaming_helper_parses_what_a_tool_is_called_with(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        **SHAPED, messages=LOOK, temperature=1, tools=[LOOK_UP], tool_choice="required"
    ) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    (choice,) = final.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    for call in choice.message.tool_calls:
        assert call.function.name == "look_up"
        assert isinstance(call.function.parsed_arguments, Place)
    done = [one for one in events if one.type == "tool_calls.function.arguments.done"]
    assert len(done) == len(choice.message.tool_calls)


async def test_tools_make_a_round_trip(client: AsyncOpenAI) -> None:
    asked: Any = {**SHAPED, "temperature": 0, "tools": [LOOK_UP], "parallel_tool_calls": False}
    named: Any = {"type": "function", "function": {"name": "look_up"}}
    answer = await client.chat.completions.create(**asked, messages=LOOK, tool_choice=named)
    message = answer.choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    Place.model_validate_json(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    turns: Any = [*LOOK, message.model_dump(exclude_none=True), result]
    last = await client.chat.completions.create(**asked, messages=turns, tool_choice="none")
    assert last.choices[0].message.tool_calls is None
    assert last.usage is not None
    assert answer.usage is not None
    assert last.usage.prompt_tokens > answer.usage.prompt_tokens


async def test_several_outputs_are_those_of_a_stream(client: AsyncOpenAI) -> None:
    asked: Any = {"model": "pocket", "messages": MESSAGES, "max_tokens": 30, **SEEDED, "n": 3}
    whole = await client.chat.completions.create(**asked)
    single = await client.chat.completions.create(**{**asked, "n": 1})
    texts = ["", "", ""]
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert [one.message.content for one in whole.choices] == texts
    assert len(set(texts)) == 3
    assert single.choices[0].message.content == texts[0]
    assert whole.usage is not None
    assert single.usage is not None
    assert whole.usage.prompt_tokens == single.usage.prompt_tokens


async def test_log_probabilities_of_a_chat(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="pocket",
        messages=MESSAGES,
        max_tokens=10,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    (choice,) = answer.choices
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert answer.usage is not None
    assert len(choice.logprobs.content) == answer.usage.completion_tokens
    for one in choice.logprobs.content:
        assert len(one.top_logprobs) == 3
        # Greedy decoding chooses the most likely token.
        assert one.logprob == one.top_logprobs[0].logprob <= 0


async def test_log_probabilities_of_prompts(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model="pocket",
        prompt=[PROMPT, PROMPT[:12]],
        max_tokens=1,
        temperature=0,
        logprobs=1,
        echo=True,
    )
    for choice, prompt in zip(answer.choices, (PROMPT, PROMPT[:12]), strict=True):
        assert choice.text.startswith(prompt)
        assert choice.logprobs is not None
        found: Any = choice.logprobs.token_logprobs
        assert found[0] is None
        assert all(one <= 0 for one in found[1:])
        assert "".join(choice.logprobs.tokens or [])[: len(prompt)] == prompt


async def test_a_response_calls_a_function_and_goes_on(client: AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "strict": True, **LOOK_UP["function"]}
    asked: Any = {"model": "pocket", "temperature": 0, "max_output_tokens": 400, "tools": [tool]}
    first = await client.responses.create(
        **asked, input=LOOK, tool_choice={"type": "function", "name": "look_up"}
    )
    (call,) = [one for one in first.output if one.type == "function_call"]
    Place.model_validate_json(call.arguments)
    second = await client.responses.create(
        **asked,
        tool_choice="none",
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}],
    )
    items = await client.responses.input_items.list(second.id, order="asc")
    kinds = [one.type for one in items.data if one.type != "reasoning"]
    assert [kind for kind in kinds if kind != "message"] == [
        "function_call",
        "function_call_output",
    ]
    assert second.status in ("completed", "incomplete")


async def test_a_response_is_parsed(client: AsyncOpenAI) -> None:
    response = await client.responses.parse(
        model="pocket", input=PROMPT, temperature=1, text_format=Place
    )
    assert isinstance(response.output_parsed, Place)
