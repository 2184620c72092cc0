"""A mesh as the upstream of another one: its texts, its usage, its limits and its loss."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from mlxmesh.generation.v1.generation_pb2 import CompleteResponse
from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import FeatureNotSupported, StreamLost
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh
from tests.fakes.openai_upstream import MODEL, Script, running_upstream

KEY = "xyzzy-key-of-the-upstream"
PROMPT = "Once upon a time there was a garden"
TURNS = [("system", "Be kind."), ("user", PROMPT)]
MESSAGES: Any = [{"role": role, "content": content} for role, content in TURNS]
MAX_TOKENS = 40
SEEDED: dict[str, Any] = {"temperature": 1, "seed": 7, "top_p": 0.9, "presence_penalty": 0.5}


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """The mesh that answers."""
    running = start_mesh(tmp_path_factory.mktemp("far"))
    yield running
    stop_mesh(running)


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory, far: RunningMesh) -> Iterator[RunningMesh]:
    """The mesh that asks it."""
    directory = tmp_path_factory.mktemp("near")
    (directory / "key").write_text(KEY)
    running = start_mesh(directory / "data", env={"MLXMESH_LOG_LEVEL": "debug"})
    takes = ("chat", "completion", "tools", "json_schema")
    added = running.command(
        *("models", "add-upstream", "far", "--url", f"http://{far.http}/v1"),
        *("--model", "pocket", "--key-file", str(directory / "key"), "--json"),
        *(word for each in takes for word in ("--takes", each)),
    )
    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout)["version"]["state"] == "ready"
    yield running
    stop_mesh(running)


async def asked(mesh: RunningMesh, model: str, **sampling: Any) -> CompleteResponse:
    async with MeshClient(mesh.address) as client:
        return await client.complete(model, messages=TURNS, max_tokens=MAX_TOKENS, **sampling)


@pytest.fixture
async def door(near: RunningMesh) -> AsyncIterator[AsyncOpenAI]:
    url = f"http://{near.http}/v1"
    async with AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("sampling", [{}, SEEDED], ids=["greedy", "seeded"])
async def test_a_text_is_that_of_the_upstream(
    near: RunningMesh, far: RunningMesh, sampling: dict[str, Any]
) -> None:
    direct = await asked(far, "pocket", **sampling)
    through = await asked(near, "far", **sampling)
    assert through.text == direct.text
    assert through.finished.finish_reason == direct.finished.finish_reason
    usage, expected = through.finished.usage, direct.finished.usage
    assert usage.prompt_tokens == expected.prompt_tokens
    assert usage.completion_tokens == expected.completion_tokens


async def test_a_prompt_without_a_template(near: RunningMesh, far: RunningMesh) -> None:
    async with MeshClient(near.address) as through, MeshClient(far.address) as direct:
        expected = await direct.complete("pocket", prompt=PROMPT, max_tokens=MAX_TOKENS)
        assert (
            await through.complete("far", prompt=PROMPT, max_tokens=MAX_TOKENS)
        ).text == expected.text


async def test_openais_client_through_the_door(
    near: RunningMesh, far: RunningMesh, door: AsyncOpenAI
) -> None:
    expected = await asked(far, "pocket")
    asking: Any = {"model": "far", "messages": MESSAGES, "max_tokens": MAX_TOKENS}
    whole = await door.chat.completions.create(**asking, temperature=0)
    assert whole.choices[0].message.content == expected.text
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == expected.finished.usage.prompt_tokens
    stream = await door.chat.completions.create(
        **asking, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert "".join(each.choices[0].delta.content or "" for each in chunks) == expected.text
    assert last.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert "far" in [each.id async for each in door.models.list()]
    with pytest.raises(openai.BadRequestError, match="does not take it"):
        await door.chat.completions.create(**asking, logit_bias={"5": 1})


async def test_a_schema_and_a_tool_are_those_of_the_upstream(
    near: RunningMesh, door: AsyncOpenAI
) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["a"],
        "additionalProperties": False,
    }
    shaped = await door.chat.completions.create(
        model="far",
        messages=MESSAGES,
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    assert 0 <= json.loads(shaped.choices[0].message.content or "")["a"] <= 9


async def test_what_it_does_not_take_is_refused_by_name(near: RunningMesh) -> None:
    async with MeshClient(near.address) as client:
        with pytest.raises(FeatureNotSupported, match="the upstream of far@1") as caught:
            await client.complete("far", prompt=PROMPT, regex="a+")
        assert caught.value.field == "regex"


async def test_an_ensemble_of_both(near: RunningMesh, far: RunningMesh) -> None:
    kept = near.command("models", "set", "pocket-mini", "--no-load-on-demand")
    made = near.command("ensembles", "set", "either", "--fallback", "pocket-mini,far")
    assert (kept.returncode, made.returncode) == (0, 0), kept.stderr + made.stderr
    answer = await asked(near, "either")
    assert answer.text == (await asked(far, "pocket")).text
    assert [(each.model, each.chosen) for each in answer.finished.steps] == [
        ("pocket-mini", False),
        ("far", True),
    ]


async def test_a_stream_whose_generation_service_is_killed_ends(near: RunningMesh) -> None:
    pid = near.pid("generation")
    async with running_upstream() as fake:
        fake.script = Script(pieces=["word "] * 500, pause_s=0.02)
        add = ("models", "add-upstream", "slow", "--url", fake.url, "--model", MODEL)
        added = await asyncio.to_thread(near.command, *add)
        assert added.returncode == 0, added.stderr
        text, killing = "", [pid]

        async def read() -> None:
            nonlocal text
            async with MeshClient(near.address) as client:
                async for event in client.generate("slow", messages=TURNS):
                    text += event.text
                    if killing and len(text) >= 20:
                        os.kill(killing.pop(), signal.SIGKILL)

        with pytest.raises(StreamLost, match="cannot be continued") as caught:
            await asyncio.wait_for(read(), 60)
    assert len(text) >= 20
    assert caught.value.retryable
    assert len(fake.requests) == 1
    assert (await asked(near, "far")).text


def test_it_is_listed_and_its_key_is_nowhere(near: RunningMesh) -> None:
    shown = json.loads(near.command("models", "show", "far", "--json").stdout)
    assert (shown["kind"], shown["state"]) == ("upstream", "ready")
    assert "upstream" in near.command("models").stdout
    files = [path for path in near.data_dir.rglob("*") if path.is_file()]
    assert any(path.suffix == ".log" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_switched_off_one_answers_nothing(near: RunningMesh) -> None:
    assert near.command("unload", "far").returncode == 0
    refused = near.command("generate", "hi", "--model", "far", "--max-tokens", "2")
    assert refused.returncode != 0
    assert "switched off" in refused.stderr
    assert near.command("load", "far").returncode == 0
    again = near.command("generate", "hi", "--model", "far", "--max-tokens", "2")
    assert again.returncode == 0, again.stderr
