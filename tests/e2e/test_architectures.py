"""Architectures that mlx-lm batches wrongly, through the whole mesh: exact, also after kill -9."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh
from tests.fakes.engine_child import POCKET_MINI
from tests.matrix.examination import prompt, write_architecture

# As in pocket-mini, whose tokenizer these models borrow.
_VOCAB_SIZE = 1024
_MAX_TOKENS = 150
_CLOSE_LENGTHS = (20, 23, 26, 29, 31, 34)


def served(mesh: RunningMesh, folder: Path, architecture: str) -> str:
    """Loads a tiny model of an architecture; returns its name."""
    path = write_architecture(folder / architecture, architecture, vocab_size=_VOCAB_SIZE)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(POCKET_MINI / file, path)
    name = f"tiny-{architecture}"
    assert mesh.command("register", str(path), "--name", name).returncode == 0
    loaded = mesh.command("load", name)
    assert loaded.returncode == 0, loaded.stderr
    return name


async def read(client: MeshClient, model: str, length: int, begun: Callable[[], None]) -> list[int]:
    token_ids: list[int] = []
    stream = client.generate(
        model, token_ids=prompt(length, length), max_tokens=_MAX_TOKENS, ignore_eos=True
    )
    async for event in stream:
        token_ids += event.token_ids
        if len(token_ids) > 5:
            begun()
    return token_ids


async def all_at_once(
    client: MeshClient, model: str, disturb: Callable[[], None]
) -> list[list[int]]:
    """The tokens of six streams; something happens once each has given a few."""
    begun = [asyncio.Event() for _ in _CLOSE_LENGTHS]
    reads: list[Awaitable[list[int]]] = [
        read(client, model, length, event.set)
        for length, event in zip(_CLOSE_LENGTHS, begun, strict=True)
    ]
    answers = asyncio.gather(*reads)
    await asyncio.gather(*(event.wait() for event in begun))
    disturb()
    return await answers


def engines_of(status: dict[str, Any], model: str) -> list[int]:
    return [
        row["pid"]
        for row in status["instances"]
        if row["service"] == "engine" and row.get("metadata", {}).get("model", model) == model
    ]


def engine_of(mesh: RunningMesh, model: str) -> int:
    (pid,) = engines_of(mesh.status(), model)
    return pid


def new_engine(status: dict[str, Any], model: str, old: int) -> bool:
    """Whether another engine serves the model."""
    found = engines_of(status, model)
    return len(found) == 1 and found != [old]


@pytest.mark.parametrize(
    "architecture", ["gemma2", pytest.param("mamba", marks=pytest.mark.matrix)]
)
async def test_six_streams_outlive_their_engine(
    mesh: RunningMesh, tmp_path: Path, architecture: str
) -> None:
    assert mesh.command("unload", "pocket").returncode == 0
    model = served(mesh, tmp_path, architecture)
    pid = engine_of(mesh, model)
    async with MeshClient(mesh.address, attempts=1) as client:
        alone = [await read(client, model, each, lambda: None) for each in _CLOSE_LENGTHS]
        found = await all_at_once(client, model, lambda: os.kill(pid, signal.SIGKILL))
    assert found == alone
    # All may have ended before the engine did.
    mesh.until(lambda status: new_engine(status, model, pid))
    assert mesh.command("unload", model).returncode == 0


def test_a_model_that_cannot_be_loaded_is_refused_at_once_with_the_whole_reason(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    path = write_architecture(tmp_path / "broken", "qwen3")
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(
        config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(POCKET_MINI / file, path)
    assert mesh.command("register", str(path), "--name", "broken").returncode == 0
    loaded = mesh.command("load", "broken")
    assert loaded.returncode != 0
    assert "mlx-lm cannot load broken" in loaded.stderr
    assert "model.layers.2.self_attn.v_proj.weight" in loaded.stderr
    (failed,) = [
        model
        for model in json.loads(mesh.command("models", "--json").stdout)["models"]
        if model["name"] == "broken"
    ]
    assert failed["versions"][0]["failure"]["reason"] == "MODEL_REFUSED"
