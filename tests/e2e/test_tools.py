"""Tools of MCP servers in a whole mesh: started by the first server, and by every later start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from mlxmesh_client import MeshClient, ServiceUnavailable
from tests.e2e.running_mesh import STDIO_TOOLS, RunningMesh, start_mesh, stop_mesh
from tests.fakes.mcp.commands import hostile_server, stdio_server

SECRET = "canary-0f3a-secret"
BACK = {"text": "back"}


@pytest.fixture(scope="module")
def own_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    mesh = start_mesh(tmp_path_factory.mktemp("tools"), env=STDIO_TOOLS)
    yield mesh
    stop_mesh(mesh)


def ok(mesh: RunningMesh, *arguments: str) -> str:
    result = mesh.command(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def services(mesh: RunningMesh) -> set[str]:
    return {row["service"] for row in mesh.status()["instances"]}


def test_the_first_server_starts_the_service(own_mesh: RunningMesh) -> None:
    assert "tools" not in services(own_mesh)
    reads = own_mesh.command("mcp", "list")
    assert reads.returncode == 1
    assert "`mlxmesh mcp add`" in reads.stderr
    assert not (own_mesh.data_dir / "tools.db").exists()

    # Options come first: everything after -- is the command.
    added = own_mesh.command(
        *("mcp", "add", "fake", "--env", f"TOKEN={SECRET}", "--json"),
        *("--data-dir", str(own_mesh.data_dir), "--", *stdio_server()),
    )
    # command() adds --data-dir at the end, which the server's command ignores.
    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout)["state"] == "ready"
    assert SECRET not in added.stdout
    assert "tools" in services(own_mesh)
    assert "fake__echo" in ok(own_mesh, "mcp", "tools")


def test_a_call_needs_an_approval_until_the_policy_says_otherwise(own_mesh: RunningMesh) -> None:
    call = ("mcp", "call", "fake__echo", '{"text": "hello"}')
    refused = own_mesh.command(*call)
    assert refused.returncode == 1
    assert "--yes" in refused.stderr
    assert ok(own_mesh, *call, "--yes").strip() == "hello"
    ok(own_mesh, "mcp", "policy", "fake", "echo", "always")
    assert ok(own_mesh, *call).strip() == "hello"
    failed = own_mesh.command("mcp", "call", "fake__fail", '{"text": "no"}', "--yes")
    assert failed.returncode == 1
    calls = json.loads(ok(own_mesh, "mcp", "calls", "--json"))
    assert [each["tool"] for each in calls] == ["fail", "echo", "echo"]


def test_secrets_and_content_are_stored_nowhere(own_mesh: RunningMesh) -> None:
    for path in own_mesh.data_dir.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
    assert b"hello" not in (own_mesh.data_dir / "tools.db").read_bytes()


async def test_killing_the_service_in_mid_call_leaves_no_process(own_mesh: RunningMesh) -> None:
    async with MeshClient(own_mesh.address) as client:
        ok(own_mesh, "mcp", "policy", "fake", "start_child", "always")
        child = int((await client.tools.call("fake", "start_child", {"leave": True})).text)
        arguments = {"seconds": 120.0}
        call = asyncio.create_task(client.tools.call("fake", "sleep", arguments, approved=True))
        await asyncio.sleep(1)
        assert psutil.pid_exists(child)
        os.kill(own_mesh.pid("tools"), signal.SIGKILL)
        with pytest.raises(ServiceUnavailable):
            await call
        async with asyncio.timeout(60):
            while psutil.pid_exists(child):
                await asyncio.sleep(0.1)
            # The launcher starts it again, and it connects its servers.
            while True:
                try:
                    result = await client.tools.call("fake", "echo", BACK, approved=True)
                except ServiceUnavailable:
                    await asyncio.sleep(0.2)
                else:
                    break
    assert result.text == "back"
    async with asyncio.timeout(60):
        # Keepers of servers end by themselves once their service has.
        while len([p for p in psutil.process_iter(["cmdline"]) if _is_of(p, own_mesh)]) > 1:
            await asyncio.sleep(0.1)


def _is_of(process: psutil.Process, mesh: RunningMesh) -> bool:
    """Whether it is the keeper of a server of this mesh, which is a child of its tools service."""
    line = process.info["cmdline"] or []
    if not any(each.endswith("keeper.py") for each in line):
        return False
    try:
        return process.ppid() in (1, mesh.pid("tools"))
    except psutil.NoSuchProcess:
        return False


def test_removing_and_failing(own_mesh: RunningMesh) -> None:
    ok(own_mesh, "mcp", "disable", "fake")
    assert "disabled" in ok(own_mesh, "mcp", "list")
    ok(own_mesh, "mcp", "remove", "fake")
    assert "no MCP servers" in ok(own_mesh, "mcp", "list")
    data_dir = ("--data-dir", str(own_mesh.data_dir))
    broken = own_mesh.command("mcp", "add", "bad", *data_dir, "--", *hostile_server("exits"))
    assert broken.returncode == 0
    assert "no configuration" in broken.stderr
    assert ok(own_mesh, "logs", "tools") is not None
