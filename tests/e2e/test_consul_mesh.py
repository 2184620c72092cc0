"""A mesh that finds itself through Consul, while the agent comes and goes."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh
from tests.fakes.consul_agent import FakeConsulAgent
from tests.fakes.consul_process import ConsulAgentProcess, if_built

PATIENCE_S = 60
AGENTS = ["fake", *if_built("real")]
Agent = FakeConsulAgent | ConsulAgentProcess


@pytest.fixture(params=AGENTS)
async def agent(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Agent]:
    agent = FakeConsulAgent() if request.param == "fake" else ConsulAgentProcess(tmp_path)
    await agent.start()
    yield agent
    await agent.stop()


def answers(mesh: RunningMesh) -> bool:
    """Whether the mesh generates."""
    result = mesh.command("generate", "Tell me a story.", "--max-tokens", "5")
    return result.returncode == 0


async def services(mesh: RunningMesh) -> list[str]:
    status = await asyncio.to_thread(mesh.status)
    return sorted(row["service"] for row in status["instances"] if row["state"] == "serving")


async def until_serving(mesh: RunningMesh, wanted: list[str]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await services(mesh) != wanted:
            await asyncio.sleep(0.2)


async def test_a_mesh_outlives_its_agent(agent: Agent, tmp_path: Path) -> None:
    mesh = await asyncio.to_thread(
        start_mesh,
        *(tmp_path / "mesh", "--registry", "consul", "--consul-address", agent.address),
    )
    everybody = ["engine", "gateway", "generation", "model", "runtime"]
    try:
        await until_serving(mesh, everybody)
        assert not (mesh.data_dir / "registry").exists()

        await agent.stop()
        assert await asyncio.to_thread(answers, mesh)
        # In development mode an agent forgets everything.
        await agent.restart()
        await until_serving(mesh, everybody)
        assert await asyncio.to_thread(answers, mesh)
    finally:
        await asyncio.to_thread(stop_mesh, mesh)


async def test_config_show_tells_what_stands_in_consul(tmp_path: Path) -> None:
    agent = FakeConsulAgent()
    await agent.start()
    await agent.put("mlxmesh/config/gateway/max_deadline_s", "7")
    await agent.put("mlxmesh/config/mesh/log_level", "loud")
    mesh = RunningMesh(tmp_path, "")
    (tmp_path / "mlxmesh.toml").write_text(
        f'[mesh]\nregistry = "consul"\n[consul]\naddress = "{agent.address}"\n'
    )

    result = await asyncio.to_thread(mesh.command, "config", "show", "--json")

    rows = {(row["section"], row["name"]): row for row in json.loads(result.stdout)}
    deadline = rows["gateway", "max_deadline_s"]
    assert (deadline["value"], deadline["source"]) == ("7.0", "configuration store")
    assert deadline["changes"] == "while running"
    assert rows["gateway", "log_level"]["source"] == "default"
    assert "log_level" in result.stderr
    await agent.stop()
    result = await asyncio.to_thread(mesh.command, "config", "show")
    assert result.returncode == 0
    assert "settings in the configuration store are missing" in result.stderr
