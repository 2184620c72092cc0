"""Anthropic's own client at a whole mesh: the same answers as over gRPC, counts, models, places."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal

import anthropic
import httpx2
import jsonschema
import pydantic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import MessageParam, TextBlock, ThinkingBlock, ToolUseBlock

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh
from tests.fakes.engine_child import POCKET_MINI

SYSTEM = "Answer in one sentence."
TURNS: list[MessageParam] = [
    {"role": "user", "content": [{"type": "text", "text": "Who are you?"}]},
    {"role": "assistant", "content": "I am a model."},
    {"role": "user", "content": "Tell me a story about a river and a stone."},
]
SAME_TURNS = [
    ("system", SYSTEM),
    ("user", "Who are you?"),
    ("assistant", "I am a model."),
    ("user", "Tell me a story about a river and a stone."),
]
ASKED: dict[str, Any] = {"model": "pocket", "system": SYSTEM, "messages": TURNS}


@pytest.fixture
def url(mesh: RunningMesh) -> str:
    return f"http://{mesh.http}"


@pytest.fixture
async def client(url: str) -> AsyncGenerator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=url, api_key="any") as connected:
        yield connected


@pytest.fixture
async def grpc(mesh: RunningMesh) -> AsyncGenerator[MeshClient]:
    async with MeshClient(mesh.address) as connected:
        yield connected


def text_of(message: Any) -> str:
    (block,) = message.content
    assert isinstance(block, TextBlock)
    return block.text


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"seed": 7}, {"temperature": 1, "seed": 7}),
        ({"seed": 8, "ignore_eos": True}, {"temperature": 1, "seed": 8, "ignore_eos": True}),
        ({"temperature": 0}, {"temperature": 0}),
        (
            {"seed": 9, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.2, "min_p": 0.05},
            {
                "temperature": 1,
                "seed": 9,
                "top_k": 5,
                "top_p": 0.9,
                "repetition_penalty": 1.2,
                "min_p": 0.05,
            },
        ),
    ],
)
async def test_answers_are_those_of_grpc(
    client: AsyncAnthropic, grpc: MeshClient, options: dict[str, Any], same: dict[str, Any]
) -> None:
    asked = {**ASKED, "max_tokens": 40, "extra_body": options}
    expected = await grpc.complete("pocket", messages=SAME_TURNS, max_tokens=40, **same)
    whole = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        pieces = [piece async for piece in stream.text_stream]
        streamed = await stream.get_final_message()
    assert text_of(whole) == text_of(streamed) == "".join(pieces) == expected.text
    ended = g.FinishReason.Name(expected.finished.finish_reason)
    reason = {"FINISH_REASON_STOP": "end_turn", "FINISH_REASON_LENGTH": "max_tokens"}[ended]
    for message in (whole, streamed):
        assert message.usage.output_tokens == len(expected.token_ids)
        assert message.stop_reason == reason
        assert message.model == "pocket@1"


async def test_deltas_are_those_of_grpc(client: AsyncAnthropic, grpc: MeshClient) -> None:
    """The id of a message names its generation, whose tokens gRPC still has."""
    async with client.messages.stream(
        **ASKED, max_tokens=60, extra_headers={"idempotency-key": "twice"}
    ) as stream:
        message = await stream.get_final_message()
    again = [event async for event in grpc.attach(message.id.removeprefix("msg_"))]
    assert "".join(event.text for event in again) == text_of(message)
    assert sum(len(event.token_ids) for event in again) == message.usage.output_tokens


async def test_a_stream_that_is_cut_resumes_with_the_same_events(url: str) -> None:
    body = {**ASKED, "max_tokens": 30, "stream": True, "ignore_eos": True}
    key = {"anthropic-version": "2023-06-01", "idempotency-key": "cut"}

    async def lines(after: str, count: int | None = None) -> list[str]:
        """The stream's lines after an event; its first ones only, then the client leaves."""
        headers = {**key, "last-event-id": after} if after else key
        found: list[str] = []
        async with (
            httpx2.AsyncClient(base_url=url, timeout=60) as client,
            client.stream("POST", "/v1/messages", json=body, headers=headers) as response,
        ):
            async for line in response.aiter_lines():
                found.append(line)
                if len(found) == count:
                    break
        return found

    joined: list[str] = []
    for events in (1, 2, 1, 4, 5, None):
        last = joined[-2].removeprefix("id: ") if joined else ""
        joined += await lines(last, None if events is None else 4 * events)
    assert joined == await lines("")
    assert joined[-4] == "event: message_stop"


async def test_a_stop_sequence_is_told(client: AsyncAnthropic) -> None:
    asked = {**ASKED, "max_tokens": 60, "extra_body": {"temperature": 0, "ignore_eos": True}}
    text = text_of(await client.messages.create(**asked))
    stop = text[len(text) // 2 :][:3]
    async with client.messages.stream(**asked, stop_sequences=["never ever", stop]) as stream:
        message = await stream.get_final_message()
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert text_of(message) == text[: text.index(stop)]


async def test_tokens_are_counted_as_they_are_rendered(
    client: AsyncAnthropic, grpc: MeshClient
) -> None:
    counted = await client.messages.count_tokens(**ASKED)
    assert counted.input_tokens == (await grpc.count_tokens("pocket", messages=SAME_TURNS)).tokens
    fresh: dict[str, Any] = {**ASKED, "system": "Nobody has asked this before."}
    expected = (await client.messages.count_tokens(**fresh)).input_tokens
    for cached in (False, True):
        async with client.messages.stream(**fresh, max_tokens=4) as stream:
            start = await anext(aiter(stream))
            assert start.type == "message_start"
            first = start.message.usage
            last = (await stream.get_final_message()).usage
        for usage in (first, last):
            assert usage.cache_read_input_tokens is not None
            assert usage.input_tokens + usage.cache_read_input_tokens == expected
            assert usage.cache_creation_input_tokens == 0
        assert (last.cache_read_input_tokens or 0) > 0 or not cached


async def test_models_are_listed_by_pages(client: AsyncAnthropic, grpc: MeshClient) -> None:
    await grpc.set_alias(name="pocket", alias="live", version=1)
    names = ["pocket", "pocket-mini", "pocket:live"]
    assert [model.id async for model in client.models.list(limit=1)] == names
    backward = client.models.list(limit=1, before_id="pocket:live")
    assert [model.id async for model in backward] == ["pocket-mini", "pocket"]
    for name in (*names, "pocket@1"):
        model = await client.models.retrieve(name)
        assert (model.id, model.lifecycle) == (name, "active")
        assert model.created_at.year >= 2025
        assert (model.max_input_tokens or 0) >= 1024
    with pytest.raises(anthropic.NotFoundError):
        await client.models.retrieve("nobody")


async def test_an_unknown_model_and_a_full_context_are_typed_errors(client: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.create(**{**ASKED, "model": "nobody"}, max_tokens=1)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        await client.messages.create(**ASKED, max_tokens=20_000)
    tool: Any = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(anthropic.BadRequestError, match=r"tools\.0\.type"):
        await client.messages.create(**ASKED, max_tokens=1, tools=[tool])


async def running(grpc: MeshClient) -> int:
    instances = await grpc.mesh_status()
    return sum(one.load.running for one in instances if one.HasField("load"))


async def test_a_stream_that_is_left_frees_its_place(
    client: AsyncAnthropic, grpc: MeshClient
) -> None:
    lasting: dict[str, Any] = {"max_tokens": 10_000, "extra_body": {"ignore_eos": True}}
    async with client.messages.stream(**ASKED, **lasting) as stream:
        await anext(stream.text_stream)
        async with asyncio.timeout(60):
            while await running(grpc) == 0:
                await asyncio.sleep(0.05)
    async with asyncio.timeout(60):
        while await running(grpc) > 0:
            await asyncio.sleep(0.05)


async def test_the_synchronous_client_gets_the_same(client: AsyncAnthropic, url: str) -> None:
    asked = {**ASKED, "max_tokens": 30, "extra_body": {"seed": 3}}

    def ask() -> list[str]:
        with anthropic.Anthropic(base_url=url, auth_token="any") as blocking:
            whole = text_of(blocking.messages.create(**asked))
            with blocking.messages.stream(**asked) as stream:
                return [whole, stream.get_final_text()]

    assert await asyncio.to_thread(ask) == [text_of(await client.messages.create(**asked))] * 2


# Tools, thinking and schemas.

WEATHER: Any = {
    "name": "get_weather",
    "description": "Returns the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CALLING: dict[str, Any] = {
    **ASKED,
    "max_tokens": 400,
    "tools": [WEATHER],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    "extra_body": {"seed": 5},
}


def called(message: Any) -> ToolUseBlock:
    """The only call of a message, whose input must satisfy the schema."""
    assert message.stop_reason == "tool_use"
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert isinstance(call, ToolUseBlock)
    assert call.name == "get_weather"
    jsonschema.validate(call.input, WEATHER["input_schema"])
    return call


async def test_a_call_and_its_result_go_round(client: AsyncAnthropic) -> None:
    first = await client.messages.create(**CALLING)
    call = called(first)
    turns: list[Any] = [
        *TURNS,
        {"role": "assistant", "content": first.content},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "4 degrees"}],
        },
    ]
    asked: dict[str, Any] = {**ASKED, "messages": turns, "tools": [WEATHER]}
    answer = await client.messages.create(
        **asked, max_tokens=30, tool_choice={"type": "none"}, extra_body={"seed": 6}
    )
    assert not [block for block in answer.content if block.type == "tool_use"]
    counted = (await client.messages.count_tokens(**asked)).input_tokens
    usage = answer.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == counted
    assert counted > (await client.messages.count_tokens(**ASKED)).input_tokens


async def test_a_streamed_call_is_the_whole_one(client: AsyncAnthropic) -> None:
    whole = called(await client.messages.create(**CALLING))
    async with client.messages.stream(**CALLING) as stream:
        fragments = [event.partial_json async for event in stream if event.type == "input_json"]
        streamed = called(await stream.get_final_message())
    assert (streamed.name, streamed.input) == (whole.name, whole.input)
    assert json.loads("".join(fragments)) == whole.input


@pytest.mark.parametrize("seed", range(3))
async def test_a_named_tool_is_called(client: AsyncAnthropic, seed: int) -> None:
    other = {**WEATHER, "name": "get_time"}
    asked = {**CALLING, "tools": [other, WEATHER], "extra_body": {"seed": seed}}
    asked["tool_choice"] = {"type": "tool", "name": "get_weather"}
    async with client.messages.stream(**asked) as stream:
        called(await stream.get_final_message())


async def test_a_stream_with_a_call_resumes(url: str) -> None:
    body = {**{key: CALLING[key] for key in CALLING.keys() - {"extra_body"}}, "seed": 5}
    headers = {"anthropic-version": "2023-06-01", "idempotency-key": "call"}

    async def events(after: str = "") -> list[str]:
        resumed = {**headers, "last-event-id": after} if after else headers
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            response = await client.post(
                "/v1/messages", json={**body, "stream": True}, headers=resumed
            )
        return response.text.split("\n\n")[:-1]

    whole = await events()
    assert [one for one in whole if "input_json_delta" in one]
    for number in range(1, len(whole), 3):
        last = whole[number - 1].rpartition("id: ")[2]
        assert await events(last) == whole[number:]


async def test_the_client_parses_what_a_schema_demands(client: AsyncAnthropic) -> None:
    class City(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=12)
        size: Literal["small", "large"]

    schema = {**City.model_json_schema(), "additionalProperties": False}
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    for seed in range(3):
        message = await client.messages.create(
            **ASKED, max_tokens=400, output_config=config, extra_body={"seed": seed}
        )
        assert message.stop_reason == "end_turn"
        City.model_validate_json(text_of(message))

    class Size(pydantic.BaseModel):  # the client leaves the length of a text to the model
        size: Literal["small", "large"]

    parsed = await client.messages.parse(**ASKED, max_tokens=60, output_format=Size)
    assert isinstance(parsed.parsed_output, Size)


@pytest.fixture(scope="module")
def thinker(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose template opens a block of thinking, unless it is told not to."""
    folder = tmp_path_factory.mktemp("models") / "thinker"
    return loaded(mesh, folder, "if enable_thinking is not defined or enable_thinking")


@pytest.fixture(scope="module")
def plain(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose template knows no thinking."""
    return loaded(mesh, tmp_path_factory.mktemp("models") / "plain", "if false", marker="")


def loaded(mesh: RunningMesh, folder: Path, condition: str, *, marker: str = "<think>") -> str:
    """The name of a model as pocket that writes a marker before its answer on a condition."""
    shutil.copytree(POCKET_MINI.parent / "pocket", folder)
    template = folder / "chat_template.jinja"
    text = template.read_text()
    switch = "if enable_thinking"
    assert switch in text
    template.write_text(text.replace(switch, condition).replace("<think>", marker))
    assert mesh.command("register", str(folder), "--name", folder.name).returncode == 0
    done = mesh.command("load", folder.name)
    assert done.returncode == 0, done.stderr
    return folder.name


async def test_thinking_is_a_block_of_its_own(client: AsyncAnthropic, thinker: str) -> None:
    asked: dict[str, Any] = {
        **ASKED,
        "model": thinker,
        "max_tokens": 40,
        "thinking": {"type": "enabled", "budget_tokens": 12},
        "extra_body": {"seed": 4},
    }
    whole = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        pieces = [event.thinking async for event in stream if event.type == "thinking"]
        streamed = await stream.get_final_message()
    for message in (whole, streamed):
        first, second = message.content
        assert isinstance(first, ThinkingBlock)
        assert isinstance(second, TextBlock)
        assert first.signature
        details = message.usage.output_tokens_details
        assert details is not None
        assert 0 < details.thinking_tokens < message.usage.output_tokens
    first, second = (
        [block.model_dump(exclude_none=True) for block in message.content]
        for message in (whole, streamed)
    )
    assert first == second
    assert "".join(pieces) == getattr(whole.content[0], "thinking", None)
    turns: list[Any] = [
        *TURNS,
        {"role": "assistant", "content": whole.content},
        {"role": "user", "content": "And then?"},
    ]
    again = await client.messages.create(**{**asked, "messages": turns})
    assert again.content[0].type == "thinking"


async def test_thinking_can_be_switched_off(
    client: AsyncAnthropic, thinker: str, plain: str
) -> None:
    asked: dict[str, Any] = {**ASKED, "model": thinker, "max_tokens": 20}
    message = await client.messages.create(**asked, thinking={"type": "disabled"})
    assert [block.type for block in message.content] == ["text"]
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        await client.messages.create(
            **{**ASKED, "model": plain},
            max_tokens=20,
            thinking={"type": "enabled", "budget_tokens": 5},
        )
