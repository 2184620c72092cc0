"""LoRA adapters through the whole mesh: exact, beside the base model, and whatever happens."""

import asyncio
import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import (
    AdapterExists,
    AdapterInvalid,
    AdapterNotFound,
    FeatureNotSupported,
    InvalidArgument,
    MeshError,
)
from tests.e2e.running_mesh import RunningMesh
from tests.fakes.engine_child import POCKET_MINI
from tests.fakes.lora_adapters import random_layers, write_mlx_lm, write_peft
from tests.fakes.tiny_model import mx
from tests.matrix.examination import MAX_TOKENS, Prompt, Reference, prompt

POCKET = POCKET_MINI.with_name("pocket")
_RANK, _SCALE = 4, 2.0
_SHAPES = {
    f"model.layers.{layer}.{module}": shape
    for layer in range(4)
    for module, shape in {
        "self_attn.q_proj": (160, 160),
        "self_attn.v_proj": (160, 160),
        "mlp.down_proj": (160, 432),
    }.items()
}
_LINES = {
    "type": "object",
    "properties": {
        "lines": {
            "type": "array",
            "items": {"type": "string", "minLength": 30, "maxLength": 60},
            "minItems": 10,
            "maxItems": 12,
        }
    },
    "required": ["lines"],
}
_LONG: dict[str, Any] = {"max_tokens": 600, "ignore_eos": True, "temperature": 1.0, "seed": 7}


LASTING = 1500


class Exact(Reference):
    """mlx-lm by itself in float32, with an adapter in its own format, or with none."""

    def __init__(self, adapter: Path | None = None) -> None:
        super().__init__(POCKET)
        self._model.set_dtype(mx.float32)
        if adapter is not None:
            import_module("mlx_lm.tuner.utils").load_adapters(self._model, str(adapter))


@dataclass(frozen=True)
class Files:
    """Two adapters of pocket: mlx-lm's format, and PEFT's with its twin in the other format."""

    french: Path
    german: Path
    german_twin: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("adapters")
    one, two = (random_layers(_SHAPES, rank=_RANK, seed=seed, size=0.2) for seed in (1, 2))
    return Files(
        write_mlx_lm(folder / "french", one, scale=_SCALE, config={"num_layers": 4}),
        write_peft(folder / "german", two, alpha=_SCALE * _RANK),
        write_mlx_lm(folder / "twin", two, scale=_SCALE, config={"num_layers": 4}),
    )


@pytest.fixture(scope="module")
def adapted(
    mesh: RunningMesh, files: Files, tmp_path_factory: pytest.TempPathFactory
) -> RunningMesh:
    """The mesh with both adapters; the directories that they came from are gone."""
    for name, directory in (("french", files.french), ("german", files.german)):
        copy = shutil.copytree(directory, tmp_path_factory.mktemp(name) / "source")
        added = mesh.command("adapters", "add", name, str(copy), "--model", "pocket", "--json")
        assert added.returncode == 0, added.stderr
        assert json.loads(added.stdout)["rank"] == _RANK
        shutil.rmtree(copy)
    return mesh


async def tokens(client: MeshClient, asked: Prompt, **options: Any) -> list[int]:
    found: list[int] = []
    async for event in client.generate(
        options.pop("model", "pocket"), token_ids=asked, ignore_eos=True, **options
    ):
        found += event.token_ids
    return found


async def test_answers_are_mlx_lms_own_with_the_adapter(adapted: RunningMesh, files: Files) -> None:
    references = {"": Exact(), "french": Exact(files.french), "german": Exact(files.german_twin)}
    asked = [(prompt(at % 3, 20 + at), name) for at, name in enumerate([*references] * 3)]
    answers: list[list[int]] = []
    async with MeshClient(adapted.address) as client:
        for _ in range(2):  # the second time with warm prefixes
            answers = await asyncio.gather(
                *(
                    tokens(
                        client, each, max_tokens=MAX_TOKENS, **({"adapter": name} if name else {})
                    )
                    for each, name in asked
                )
            )
            for (each, name), answer in zip(asked, answers, strict=True):
                references[name].check(each, answer)
        by_reference = await tokens(
            client, asked[1][0], max_tokens=MAX_TOKENS, model=f"pocket:{asked[1][1]}"
        )
        assert by_reference == answers[1]
    same = prompt(0, 40)
    assert len({tuple(each.tokens(same)) for each in references.values()}) == len(references)


async def _nothing() -> None: ...


class Stream:
    """A generation of two outputs with an adapter, that something happens to."""

    def __init__(self, client: MeshClient, **options: Any) -> None:
        self._client, self._options = client, _LONG | options
        self.resumptions = 0
        self.digest = ""
        self.engine = ""
        """The id of the engine that it began on."""

    async def read(self, disturb: Callable[[], Awaitable[None]] = _nothing) -> list[list[int]]:
        """The tokens of both outputs; something happens once each has some."""
        outputs: list[list[int]] = [[], []]
        waiting = True
        asked = self._client.generate(
            "pocket", messages=[("user", "Tell me a story.")], n=2, **self._options
        )
        async for event in asked:
            if event.started is not None:
                self.engine = event.started.engine_id
                self.digest = event.started.adapter.digest
            outputs[event.index] += event.token_ids
            if event.finished is not None:
                self.resumptions += event.finished.timings.resumptions
            if waiting and all(len(each) > 5 for each in outputs):
                waiting = False
                await disturb()
        return outputs


async def put(client: MeshClient, directory: Path, *, replace: bool = False) -> None:
    """Adds the adapter `changing`, and waits until generation knows it, which takes a moment."""
    added = await client.adapters.add("changing", directory, model="pocket", replace=replace)
    digest = ""
    async with asyncio.timeout(60):
        while digest != added.digest:
            with suppress(AdapterNotFound):
                answer = await client.complete(
                    "pocket", prompt="Hi", max_tokens=1, adapter="changing"
                )
                digest = answer.started.adapter.digest


async def until_refused(client: MeshClient, **options: Any) -> None:
    async with asyncio.timeout(60):
        while True:
            await tokens(client, prompt(1, 5), max_tokens=1, **options)


async def test_a_killed_engine_is_not_noticed(adapted: RunningMesh) -> None:
    async with MeshClient(adapted.address) as client:
        expected = await Stream(client, adapter="french").read()
        assert await Stream(client).read() != expected
        pid = adapted.pid("engine")

        async def kill() -> None:
            os.kill(pid, signal.SIGKILL)

        stream = Stream(client, adapter="french")
        assert await stream.read(kill) == expected
        assert stream.resumptions == 2


async def test_what_runs_keeps_the_adapter_that_it_began_with(
    adapted: RunningMesh, files: Files
) -> None:
    async with MeshClient(adapted.address) as client:
        await put(client, files.french)
        # It still runs when the other adapter is known.
        undisturbed = Stream(client, adapter="changing", max_tokens=LASTING)
        expected = await undisturbed.read()
        pid = adapted.pid("engine")

        async def replace_and_kill() -> None:
            await put(client, files.german, replace=True)
            os.kill(pid, signal.SIGKILL)

        stream = Stream(client, adapter="changing", max_tokens=LASTING)
        assert await stream.read(replace_and_kill) == expected
        assert (stream.resumptions, stream.digest) == (2, undisturbed.digest)
        replaced = await Stream(client, adapter="changing").read()
        assert replaced == await Stream(client, adapter="german").read() != expected

        async def remove() -> None:
            await client.adapters.remove("changing", model="pocket")

        assert await Stream(client, adapter="changing").read(remove) == replaced
        with pytest.raises(AdapterNotFound, match="no adapter changing; it has french, german"):
            await until_refused(client, adapter="changing")


async def test_names_and_fields_that_are_refused(adapted: RunningMesh, files: Files) -> None:
    cases: list[tuple[dict[str, Any], type[MeshError], str]] = [
        ({"adapter": "none"}, AdapterNotFound, "adapter"),
        ({"adapter": "../x"}, InvalidArgument, "adapter"),
        ({"adapter": "x" * 65}, InvalidArgument, "adapter"),
        ({"model": "pocket:french", "adapter": "german"}, InvalidArgument, "adapter"),
        ({"model": "pocket:nobody"}, MeshError, "model"),
    ]
    async with MeshClient(adapted.address) as client:
        for fields, error, field in cases:
            with pytest.raises(error) as caught:
                await tokens(client, prompt(1, 5), max_tokens=1, **fields)
            assert caught.value.field == field
        with pytest.raises(AdapterExists):
            await client.set_alias(name="pocket", alias="french", version=1)
        await client.set_alias(name="pocket", alias="stable", version=1)
        with pytest.raises(AdapterExists, match="is an alias"):
            await client.adapters.add("stable", files.french, model="pocket")
        with pytest.raises(AdapterInvalid):
            await client.adapters.add("bad", POCKET, model="pocket")
        assert [each.name for each in await client.adapters.list(model="pocket")] == [
            "french",
            "german",
        ]


def test_openais_edge_lists_and_takes_them(adapted: RunningMesh) -> None:
    def call(path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"http://{adapted.http}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    ids = [each["id"] for each in call("/v1/models")["data"]]
    assert {"pocket", "pocket:french", "pocket:german"} <= set(ids)
    asked = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 20}
    texts = [
        call("/v1/chat/completions", {**asked, **fields})["choices"][0]["message"]["content"]
        for fields in (
            {"model": "pocket"},
            {"model": "pocket", "adapter": "french"},
            {"model": "pocket:french"},
        )
    ]
    assert texts[1] == texts[2] != texts[0]


def test_the_command_generates_with_an_adapter(adapted: RunningMesh) -> None:
    fixed = ("generate", "Hi", "--model", "pocket", "--max-tokens", "20", "--json")
    plain, french = (adapted.command(*fixed, *more) for more in ((), ("--adapter", "french")))
    assert french.returncode == 0, french.stderr
    assert json.loads(plain.stdout)["text"] != json.loads(french.stdout)["text"]
    shown = adapted.command("adapters", "show", "german", "--model", "pocket")
    assert "peft" in shown.stdout
    listed = json.loads(adapted.command("adapters", "list", "--json").stdout)["adapters"]
    assert [each["name"] for each in listed] == ["french", "german"]


async def two_engines(mesh: RunningMesh, profile: str) -> dict[str, int]:
    """The processes of two new engines of a profile, by id."""

    def engines() -> dict[str, int]:
        rows = [row for row in mesh.status()["instances"] if row["service"] == "engine"]
        return {row["instance_id"]: row["pid"] for row in rows if row["state"] == "serving"}

    before = engines()
    loaded = mesh.command("load", "pocket", "--profile", profile, "--replicas", "2")
    assert loaded.returncode == 0, loaded.stderr
    async with asyncio.timeout(120):
        while len(now := engines()) != 2 or now.keys() & before.keys():
            await asyncio.sleep(0.2)
    return now


async def test_one_of_two_engines_is_killed_with_everything_on(adapted: RunningMesh) -> None:
    """Adapters, seeded sampling, a schema, speculation, and prefixes on disk."""
    options = ("--speculative", "ngram", "--prefix-disk-bytes", str(2**28))
    assert adapted.command("profiles", "set", "everything", *options).returncode == 0
    pids = await two_engines(adapted, "everything")
    requests: list[dict[str, Any]] = [
        {"adapter": adapter, "seed": seed, "json_schema": _LINES, "ignore_eos": False}
        for seed, adapter in enumerate(("french", "german", "french", "german"))
    ]

    async with MeshClient(adapted.address) as client:
        expected = await asyncio.gather(*(Stream(client, **each).read() for each in requests))
        streams = [Stream(client, **each) for each in requests]

        async def kill() -> None:
            os.kill(pids[streams[0].engine], signal.SIGKILL)

        answers = await asyncio.gather(
            streams[0].read(kill), *(stream.read() for stream in streams[1:])
        )
    assert answers == expected
    assert streams[0].resumptions == 2
    assert adapted.command("load", "pocket", "--replicas", "1").returncode == 0


async def test_a_profile_may_refuse_adapters(adapted: RunningMesh) -> None:
    stored = adapted.command("profiles", "set", "plain", "--max-adapters", "0")
    assert stored.returncode == 0, stored.stderr
    assert adapted.command("load", "pocket", "--profile", "plain").returncode == 0
    async with MeshClient(adapted.address) as client:
        with pytest.raises(FeatureNotSupported) as caught:
            await tokens(client, prompt(1, 5), max_tokens=1, adapter="french")
        assert caught.value.field == "adapter"
        assert await tokens(client, prompt(1, 5), max_tokens=1)
