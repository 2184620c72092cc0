"""`mlxmesh models`: the list, and how the output of a model is read."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mlxmesh.generation.v1.generation_pb2_grpc import add_GenerationServiceServicer_to_server
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh.model.v1.model_pb2_grpc import add_ModelServiceServicer_to_server
from mlxmesh_cli.commands.app import app
from mlxmesh_shared.rpc.server import MeshServer
from tests.fakes.public_services import GENERATION, MODEL, FakeGeneration, FakeModels


@pytest.fixture
def models() -> FakeModels:
    fake = FakeModels()
    versions = [m.ModelVersion(version=number) for number in (1, 2)]
    fake.models["qwen"] = m.Model(name="qwen", versions=versions, default_version=2)
    return fake


@pytest.fixture
def address(models: FakeModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of both services, which run on a thread."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MLXMESH_DATA_DIR", str(tmp_path / "no mesh"))
    for name in ("MLXMESH_API_KEY", "MLXMESH_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    addresses, loop = list[str](), asyncio.new_event_loop()
    stop, ready = asyncio.Event(), threading.Event()

    async def serve() -> None:
        server = MeshServer(
            services=[
                (add_GenerationServiceServicer_to_server, FakeGeneration()),
                (add_ModelServiceServicer_to_server, models),
            ],
            service_names=[GENERATION, MODEL],
        )
        await server.start()
        await server.set_serving()
        addresses.append(server.address)
        ready.set()
        await stop.wait()
        await server.drain(grace_s=0, settle_s=0)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield addresses[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def run(address: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments, "--address", address])


def shown(address: str, *arguments: str) -> Any:
    result = run(address, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_models_are_listed_as_before(address: str) -> None:
    assert [model["name"] for model in shown(address)["models"]] == ["qwen"]
    assert "qwen@2" in run(address).stdout


def test_the_formats_of_a_model_are_shown_with_reasons(address: str) -> None:
    told = shown(address, "show", "qwen")
    assert told["tool_format"] == "hermes"
    assert told["tool_reason"] == "the chat template contains <tool_call>"
    lines = run(address, "show", "qwen").stdout.splitlines()
    assert lines[0] == "tool calls  hermes: the chat template contains <tool_call>"
    assert lines[1].startswith("reasoning   none: the chat template contains no marks")


def test_formats_are_set_for_all_versions_or_one(address: str, models: FakeModels) -> None:
    changed = shown(address, "set", "qwen", "--tool-format", "hermes")
    assert [version["tool_format"] for version in changed["versions"]] == ["hermes", "hermes"]
    result = run(address, "set", "qwen@1", "--reasoning-format", "none", "--tool-format", "auto")
    assert result.exit_code == 0, result.output
    first, second = models.models["qwen"].versions
    assert (first.tool_format, first.reasoning_format) == ("", "none")
    assert (second.tool_format, second.reasoning_format) == ("hermes", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", "qwen"), "give --tool-format"),
        (("set", "qwen:stable", "--tool-format", "json"), "is an alias"),
        (("set", "nothing", "--tool-format", "json"), "no model nothing"),
        (("set", "qwen", "--tool-format", "Not One"), "tool_format"),
    ],
)
def test_what_cannot_be_set_is_said(address: str, arguments: tuple[str, ...], message: str) -> None:
    result = run(address, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
