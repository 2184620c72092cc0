"""OpenAI's connector and a fake upstream over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_shared.errors import InvalidArgument, ServiceUnavailable
from mlxmesh_worker.connectors.openai.over_http import OpenAIHttp
from mlxmesh_worker.connectors.port import Outcome, Target
from tests.fakes.connector_reports import FakeReports
from tests.fakes.openai_upstream import MODEL, FakeUpstream, running_upstream

KEY = "sk-very-secret"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


class Rig:
    def __init__(self, server: FakeUpstream, address: str) -> None:
        self.server = server
        self.reports = FakeReports()
        self.connector = OpenAIHttp(Target(name="far", address=address))

    async def run(self, operation: str, arguments: dict[str, Any]) -> Outcome:
        return await self.connector.run(self.reports.task(operation, arguments), self.reports)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    (tmp_path / "key").write_text(KEY)
    async with running_upstream(KEY) as server:
        made = Rig(server, f"{server.url}#key=file:{tmp_path / 'key'}")
        yield made
        await made.connector.close()


async def test_a_chat(rig: Rig) -> None:
    rig.server.script = replace(rig.server.script, reasoning=("so ", "so"))
    outcome = await rig.run("chat", {**CHAT, "temperature": 0, "top_k": 5, "max_tokens": 10})
    (choice,) = outcome.result["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "Hello there",
        "reasoning_content": "so so",
    }
    assert choice["finish_reason"] == "stop"
    assert outcome.result["usage"]["completion_tokens"] == 3
    sent = rig.server.requests[0]
    assert (sent["temperature"], sent["top_k"]) == (0, 5)
    assert rig.server.authorizations == [f"Bearer {KEY}"]
    last = rig.reports.told[-1]
    assert (last.unit, last.total) == ("tokens", 10)
    assert 0 < last.fraction <= 1


async def test_tool_calls_are_put_together(rig: Rig) -> None:
    calls = (
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 1, "id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": ": 1}"}},
    )
    rig.server.script = replace(rig.server.script, calls=calls, finish_reason="tool_calls")
    (choice,) = (await rig.run("chat", CHAT)).result["choices"]
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [
        {"name": "f", "arguments": '{"a": 1}'},
        {"name": "g", "arguments": "{}"},
    ]


async def test_several_choices_with_log_probabilities(rig: Rig) -> None:
    outcome = await rig.run("chat", {**CHAT, "n": 2, "logprobs": True})
    assert [choice["index"] for choice in outcome.result["choices"]] == [0, 1]
    for choice in outcome.result["choices"]:
        assert [item["token"] for item in choice["logprobs"]["content"]] == ["Hel", "lo", " there"]


async def test_an_upstream_that_does_not_stream(rig: Rig) -> None:
    rig.server.script = replace(rig.server.script, streams=False)
    outcome = await rig.run("chat", CHAT)
    assert outcome.result["choices"][0]["message"]["content"] == "Hello there"


async def test_a_completion(rig: Rig) -> None:
    outcome = await rig.run("completion", {"model": MODEL, "prompt": "Hi"})
    assert outcome.result["choices"][0]["text"] == "Hello there"


async def test_embeddings(rig: Rig) -> None:
    outcome = await rig.run("embedding", {"model": MODEL, "input": ["a", "bcd"]})
    assert [item["embedding"][0] for item in outcome.result["data"]] == [1, 3]


@pytest.mark.parametrize("model", [MODEL, "gpt-image-1"])
async def test_images(rig: Rig, model: str) -> None:
    outcome = await rig.run("image", {"model": model, "prompt": "a boat", "n": 2})
    assert [made.name for made in outcome.files] == ["image-1.png", "image-2.png"]
    for item, made in zip(outcome.result["data"], outcome.files, strict=True):
        assert item == {"revised_prompt": "a boat", "file_id": made.file_id}
    asked_for_base64 = rig.server.requests[0].get("response_format") == "b64_json"
    assert asked_for_base64 is (model == MODEL)


@pytest.mark.parametrize("name", ["stream", "stream_options", "api_key", "extra_headers"])
async def test_arguments_that_are_the_connectors(rig: Rig, name: str) -> None:
    with pytest.raises(InvalidArgument, match=name):
        rig.connector.check("chat", {**CHAT, name: "x"})


async def test_a_wrong_key_is_the_operators_fault(rig: Rig) -> None:
    rig.server.key = "another"
    for call in (rig.connector.probe(), rig.run("chat", CHAT)):
        with pytest.raises(ServiceUnavailable, match="key") as raised:
            await call
        assert KEY not in raised.value.message


async def test_a_key_that_is_not_there(rig: Rig) -> None:
    connector = OpenAIHttp(
        Target(name="far", address=f"{rig.server.url}#key=env:MESH_TEST_NO_SUCH_KEY")
    )
    with pytest.raises(ServiceUnavailable, match="MESH_TEST_NO_SUCH_KEY"):
        await connector.probe()
    await connector.close()


async def test_a_model_that_is_not_there_is_the_jobs_fault(rig: Rig) -> None:
    rig.server.script = replace(rig.server.script, status=404)
    with pytest.raises(InvalidArgument):
        await rig.run("chat", CHAT)


async def test_a_limited_upstream_says_when(rig: Rig) -> None:
    rig.server.script = replace(rig.server.script, status=429, headers={"Retry-After": "12"})
    with pytest.raises(ServiceUnavailable) as raised:
        await rig.run("chat", CHAT)
    assert raised.value.retry_delay_s == 12


@pytest.mark.parametrize("fault", ["cuts_before", "error_before"])
async def test_a_stream_that_ends_early_is_no_result(rig: Rig, fault: str) -> None:
    rig.server.script = replace(rig.server.script, **{fault: 2})
    with pytest.raises(ServiceUnavailable):
        await rig.run("chat", CHAT)


async def test_cancelled_while_it_hangs(rig: Rig) -> None:
    rig.server.script = replace(rig.server.script, hangs_before=2)
    running = asyncio.create_task(rig.run("chat", CHAT))
    async with asyncio.timeout(30):
        while not rig.reports.told:
            await asyncio.sleep(0.005)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        while rig.server.open:
            await asyncio.sleep(0.005)
    assert rig.server.closed_early == 1
