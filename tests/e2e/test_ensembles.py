"""Ensembles of real models through gRPC, the command and OpenAI's client, with kills."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from mlxmesh.generation.v1.generation_pb2 import CompleteResponse, Finished
from mlxmesh.model.v1.ensemble_pb2 import EnsembleRecipe, FallbackRecipe
from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import IllegalState, InvalidArgument, NameInUse
from tests.e2e.running_mesh import RunningMesh, until_used

MINI = Path(__file__).parents[2] / "deploy/demo-model/pocket-mini"
PROMPT = "Once upon a time there was a garden"
RECIPES = {
    "fallback": ("--fallback", "away,pocket", "--first-token-timeout", "60"),
    "cascade": ("--cascade", "mini,pocket", "--min-logprob", "-0.001"),
    "confident": ("--cascade", "mini,pocket", "--min-logprob", "-100", "--no-require-valid"),
    "vote": ("--vote", "mini,pocket", "--samples", "2", "--pattern", "[a-z]+"),
    "best": ("--best-of", "mini,pocket", "--judge", "pocket"),
}
OPTIONS: dict[str, Any] = {"temperature": 0.8, "seed": 7, "max_tokens": 40}


@pytest.fixture(scope="module", autouse=True)
def ensembles(mesh: RunningMesh) -> None:
    """A second and a third model, of which one is not loaded, and an ensemble for each recipe."""
    for name in ("mini", "away"):
        assert mesh.command("register", str(MINI), "--name", name).returncode == 0
    assert mesh.command("models", "set", "away", "--no-load-on-demand").returncode == 0
    assert mesh.command("load", "mini").returncode == 0
    for name, options in RECIPES.items():
        result = mesh.command("ensembles", "set", name, *options)
        assert result.returncode == 0, result.stderr


def test_the_command_lists_and_shows_them(mesh: RunningMesh) -> None:
    listed = json.loads(mesh.command("ensembles", "list", "--json").stdout)
    assert [each["name"] for each in listed["ensembles"]] == sorted(RECIPES)
    shown = mesh.command("ensembles", "show", "cascade").stdout
    assert "cascade: cascade of mini, pocket" in shown
    assert "mean log-probability at least -0.001" in shown
    rows = mesh.command("models").stdout.splitlines()
    assert any(row.split()[:2] == ["vote", "ensemble"] for row in rows)
    refused = mesh.command("ensembles", "set", "bad", "--vote", "pocket,nothing")
    assert refused.returncode == 1
    assert "recipe.vote.models[1]: there is no model nothing" in refused.stderr
    wrong = mesh.command("ensembles", "set", "bad", "--vote", "a,b", "--judge", "c")
    assert "--judge needs --best-of" in wrong.stderr


def check(finished: Finished, model: str) -> None:
    assert [step.model for step in finished.steps if step.chosen] == [model]
    total = sum(step.usage.completion_tokens for step in finished.steps)
    assert finished.total_usage.completion_tokens == total
    assert all(step.device_ms > 0 for step in finished.steps if step.usage.completion_tokens)


@pytest.mark.parametrize("name", RECIPES)
async def test_every_edge_gives_the_same_answer(mesh: RunningMesh, name: str) -> None:
    async with MeshClient(mesh.address) as client:
        whole = await client.complete(name, prompt=PROMPT, **OPTIONS)
        again = await client.complete(name, prompt=PROMPT, **OPTIONS)
        events = [event async for event in client.generate(name, prompt=PROMPT, **OPTIONS)]
    check(whole.finished, whole.started.model)
    assert whole.started.ensemble == name
    assert whole.text == again.text == "".join(event.text for event in events)
    url = f"http://{mesh.http}/v1"
    async with AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as openai:
        answer = await openai.completions.create(model=name, prompt=PROMPT, **OPTIONS)
        assert answer.choices[0].text == whole.text
        assert answer.usage is not None
        total = whole.finished.total_usage
        assert answer.usage.completion_tokens == total.completion_tokens
        assert answer.usage.prompt_tokens == total.prompt_tokens
        stream = await openai.completions.create(model=name, prompt=PROMPT, stream=True, **OPTIONS)
        pieces = [chunk.choices[0].text async for chunk in stream if chunk.choices]
        assert "".join(pieces) == whole.text
        assert name in [model.id async for model in openai.models.list()]
        assert (await openai.models.retrieve(name)).id == name


@pytest.mark.parametrize("name", RECIPES)
async def test_every_edge_counts_the_tokens_of_all_steps(mesh: RunningMesh, name: str) -> None:
    said, options = [("user", PROMPT)], {**OPTIONS, "temperature": 0}
    async with MeshClient(mesh.address) as client:
        whole = await client.complete(name, messages=said, **options)
    total = whole.finished.total_usage
    assert total.completion_tokens >= whole.finished.usage.completion_tokens
    counted = (total.prompt_tokens, total.completion_tokens)
    turn: Any = {"role": "user", "content": PROMPT}
    url = f"http://{mesh.http}"
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as openai:
        chat = await openai.chat.completions.create(model=name, messages=[turn], **options)
        assert chat.choices[0].message.content == whole.text
        assert chat.usage is not None
        assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == counted
        given: Any = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = await openai.chat.completions.create(
            model=name, messages=[turn], **given, **options
        )
        [usage] = [chunk.usage async for chunk in chunks if chunk.usage is not None]
        assert (usage.prompt_tokens, usage.completion_tokens) == counted
    async with AsyncAnthropic(base_url=url, api_key="any", max_retries=0) as anthropic:
        asked: Any = {"model": name, "messages": [turn], "max_tokens": options["max_tokens"]}
        asked["extra_body"] = {"temperature": 0}  # which this client no longer has
        message = await anthropic.messages.create(**asked)
        async with anthropic.messages.stream(**asked) as stream:
            streamed = await stream.get_final_message()
    for answer in (message, streamed):
        [block] = answer.content
        assert block.type == "text"
        assert block.text == whole.text
        given = (answer.usage.cache_read_input_tokens or 0) + answer.usage.input_tokens
        assert (given, answer.usage.output_tokens) == counted


async def test_the_path_is_told(mesh: RunningMesh) -> None:
    async def steps(name: str) -> list[tuple[str, str]]:
        async with MeshClient(mesh.address) as client:
            response = await client.complete(name, prompt=PROMPT, **OPTIONS)
        return [(step.model, step.reason) for step in response.finished.steps]

    assert await steps("fallback") == [("away", "MODEL_NOT_LOADED"), ("pocket", "")]
    assert [model for model, _ in await steps("cascade")] == ["mini", "pocket"]
    assert await steps("confident") == [("mini", "")]
    assert [model for model, _ in await steps("vote")] == ["mini", "mini", "pocket", "pocket"]
    best = await steps("best")
    assert [model for model, _ in best] == ["mini", "pocket", "pocket", "pocket"]
    assert [reason for _, reason in best][2:] == ["JUDGE", "JUDGE"]


async def test_the_best_answer_has_the_highest_score(mesh: RunningMesh) -> None:
    """The scores are those that the judge gives to the prompt's continuation when asked itself."""
    async with MeshClient(mesh.address) as client:
        response = await client.complete("best", prompt=PROMPT, **OPTIONS)
        answers = [step for step in response.finished.steps if step.reason != "JUDGE"]
        [chosen] = [step for step in answers if step.chosen]
        assert chosen.score == max(step.score for step in answers)
        asked = await client.complete(
            "pocket", prompt=PROMPT + response.text, max_tokens=1, prompt_logprobs=True
        )
    own = len(response.text.encode())
    scores: list[float] = []
    for token in reversed(asked.prompt_logprobs):
        if own <= 0:
            break
        own -= len(token.bytes)
        scores.append(token.logprob)
    assert chosen.score == pytest.approx(sum(scores) / len(scores), abs=0.05)


async def test_models_and_names_are_protected(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address) as client:
        with pytest.raises(IllegalState, match="ensemble fallback uses away"):
            await client.delete_model("away")
        with pytest.raises(NameInUse):
            await client.register_model(name="vote", directory=str(MINI))
        recipe = EnsembleRecipe(fallback=FallbackRecipe(models=["pocket"]))
        with pytest.raises(NameInUse):
            await client.set_ensemble("pocket", recipe)
        nested = EnsembleRecipe(fallback=FallbackRecipe(models=["vote"]))
        with pytest.raises(InvalidArgument, match="is an ensemble"):
            await client.set_ensemble("outer", nested)


@contextmanager
def second_generation(mesh: RunningMesh) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "mlxmesh_generation", "--listen", "127.0.0.1:0"]
    started = subprocess.Popen(
        [*command, "--data-dir", str(mesh.data_dir)], stderr=subprocess.DEVNULL
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


async def until_serving(mesh: RunningMesh, service: str, count: int) -> None:
    async with asyncio.timeout(120):
        while True:
            rows = [row for row in mesh.status()["instances"] if row["service"] == service]
            if [row["state"] for row in rows] == ["serving"] * count:
                return
            await asyncio.sleep(0.2)


LONG: dict[str, Any] = {"max_tokens": 300, "ignore_eos": True, "temperature": 0.8}


class Streams:
    """Two streams of each recipe at once."""

    def __init__(self, client: MeshClient) -> None:
        self._client = client
        self._tokens = 0
        self._under_way = asyncio.Event()
        self.resumptions = 0

    async def read(self, name: str, seed: int) -> tuple[str, list[tuple[str, int, str, bool]]]:
        text, steps = "", []
        stream = self._client.generate(name, prompt=PROMPT, seed=seed, **LONG)
        async for event in stream:
            text += event.text
            self._tokens += len(event.token_ids)
            if self._tokens > 30:
                self._under_way.set()
            if event.finished is not None:
                self.resumptions += event.finished.timings.resumptions
                steps = [
                    (step.model, step.usage.completion_tokens, step.reason, step.chosen)
                    for step in event.finished.steps
                ]
        return text, steps

    async def all(self, kill: int | None = None) -> list[Any]:
        names = [name for name in RECIPES for _ in range(2)]
        reading = asyncio.gather(*(self.read(name, seed) for seed, name in enumerate(names)))
        if kill is not None:
            await self._under_way.wait()
            os.kill(kill, signal.SIGKILL)
        return await reading


async def test_a_generation_instance_is_killed_under_every_recipe(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address, attempts=1) as client:
        expected = await Streams(client).all()
        await until_serving(mesh, "generation", 1)
        with second_generation(mesh) as other:
            await until_serving(mesh, "generation", 2)
            await until_used(client, "generation", 2)
            streams = Streams(client)
            assert await streams.all(kill=other.pid) == expected
    assert streams.resumptions > 0


async def test_an_engine_is_killed_under_a_stream(mesh: RunningMesh) -> None:
    async def read(client: MeshClient, kill: int | None) -> CompleteResponse:
        response, tokens = CompleteResponse(), 0
        async for event in client.generate("fallback", prompt=PROMPT, seed=3, **LONG):
            response.text += event.text
            tokens += len(event.token_ids)
            if kill is not None and tokens > 5:
                os.kill(kill, signal.SIGKILL)
                kill = None
            if event.finished is not None:
                response.finished.CopyFrom(event.finished)
        return response

    async with MeshClient(mesh.address, attempts=1) as client:
        expected = await read(client, None)
        rows = mesh.status()["instances"]
        [pid] = [
            row["pid"]
            for row in rows
            if row["service"] == "engine" and row.get("model", "").startswith("pocket")
        ]
        killed = await read(client, pid)
    assert killed.text == expected.text
    assert killed.finished.timings.resumptions == 1
    assert [step.reason for step in killed.finished.steps] == ["MODEL_NOT_LOADED", ""]
    assert killed.finished.total_usage.prompt_tokens == expected.finished.total_usage.prompt_tokens


def test_they_are_deleted(mesh: RunningMesh) -> None:
    for name in RECIPES:
        assert mesh.command("ensembles", "delete", name).returncode == 0
    assert mesh.command("delete", "away").returncode == 0
    assert "no ensembles" in mesh.command("ensembles", "list").stdout
