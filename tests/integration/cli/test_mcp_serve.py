"""`mlxmesh mcp serve`, as the official MCP client starts it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh_shared.process.startup import child_environment
from tests.fakes.public_services import FakeGeneration
from tests.fakes.waiting import until
from tests.integration.gateway.conftest import Stand


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[FakeGeneration, StdioServerParameters]]:
    async with AsyncExitStack() as stack:
        stand = Stand(stack, tmp_path)
        model = await stand.generation()
        models = await stand.models()
        models.models["pocket"] = m.Model(
            name="pocket", versions=[m.ModelVersion(version=1, ready_replicas=1)]
        )
        address = await stand.gateway()
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-m", "mlxmesh_cli", "mcp", "serve", "--address", address],
            env={**os.environ, **child_environment(), "MLXMESH_DATA_DIR": str(tmp_path)},
        )
        yield model, parameters


async def test_the_tools_over_standard_input_and_output(
    served: tuple[FakeGeneration, StdioServerParameters],
) -> None:
    model, parameters = served
    told: list[float] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    async with Client(stdio_client(parameters)) as client:
        listed = await client.list_tools()
        models = await client.call_tool("list_models", {})
        asked = {"model": "pocket", "prompt": " ".join("x" * 40), "max_tokens": 50}
        generated = await client.call_tool("generate", asked, progress_callback=progress)
        refused = await client.call_tool("generate", {"model": "pocket"})
    assert [one.name for one in listed.tools][:2] == ["list_models", "generate"]
    assert models.structured_content is not None
    assert models.structured_content["models"][0]["name"] == "pocket"
    assert generated.structured_content is not None
    assert generated.structured_content["model"] == "pocket@1"
    assert generated.structured_content["text"].split() == ["x"] * 40
    assert told == [16, 32]
    assert model.requests[0].max_tokens == 50
    assert refused.is_error


async def test_cancelling_a_call_ends_the_generation(
    served: tuple[FakeGeneration, StdioServerParameters],
) -> None:
    model, parameters = served
    model.go_on.clear()
    async with Client(stdio_client(parameters)) as client:
        asking = asyncio.ensure_future(
            client.call_tool("generate", {"model": "pocket", "prompt": "a b c"})
        )
        await until(lambda: bool(model.requests), timeout_s=60)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: model.interrupted == 1)
        assert (await client.call_tool("mesh_status", {})).structured_content is not None


def test_what_is_no_protocol_is_not_written_to_standard_output(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mlxmesh_cli", "mcp", "serve", "--data-dir", str(tmp_path / "none")],
        input="not json\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 3
    assert result.stdout == ""
    assert "mlxmesh up" in result.stderr
