"""The whole mesh as processes, driven by the `mlxmesh` command."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxmesh.telemetry.v1 import telemetry_pb2
from mlxmesh_client import CertificateFiles, MeshClient
from tests.e2e.forked_commands import run_forked

MLXMESH = (sys.executable, "-m", "mlxmesh_cli")


def mlxmesh(
    *arguments: str, timeout_s: float = 200, env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the command, with more variables where given; the result holds exit code and output."""
    if not sys.platform.startswith("linux"):
        return mlxmesh_spawned(*arguments, timeout_s=timeout_s, env=env, stdin=stdin)
    whole_env = {**os.environ, **(env or {})}
    return run_forked(arguments, stdin=stdin, env=whole_env, timeout_s=timeout_s)


def mlxmesh_spawned(
    *arguments: str, timeout_s: float = 200, env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """The same in a new interpreter, as users have it."""
    return subprocess.run(
        [*MLXMESH, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        input=stdin,
        env={**os.environ, **(env or {})},
    )


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """Every living process that works in the data directory."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if str(data_dir) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@dataclass(frozen=True)
class RunningMesh:
    """A mesh that was started with `mlxmesh up --detach`."""

    data_dir: Path
    address: str
    http: str = ""
    """Where HTTP clients connect."""
    spawns: bool = False
    """Whether commands run in new interpreters."""

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command against this mesh."""
        run = mlxmesh_spawned if self.spawns else mlxmesh
        return run(*arguments, "--data-dir", str(self.data_dir))

    def tls(self, role: str) -> CertificateFiles:
        """What a caller of this role connects with; for a mesh that was started with --tls."""
        return CertificateFiles.of_role(self.data_dir / "tls", role)

    def status(self) -> dict[str, Any]:
        """`mlxmesh status --json`."""
        result = self.command("status", "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def until(
        self, holds: Callable[[dict[str, Any]], bool], timeout_s: float = 60
    ) -> dict[str, Any]:
        """The first status that is as wanted; a busy process may miss the second that it has."""
        deadline_s = time.monotonic() + timeout_s
        while not holds(status := self.status()):
            if time.monotonic() > deadline_s:
                pytest.fail(f"not within {timeout_s} s: {json.dumps(status)}")
            time.sleep(0.2)
        return status

    def until_event(self, name: str, timeout_s: float = 60) -> list[dict[str, Any]]:
        """The kept events, once one of them has the name: services tell them some time later."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            result = self.command("events", "--json")
            assert result.returncode == 0, result.stderr
            events = [json.loads(line) for line in result.stdout.splitlines() if line]
            if any(event["name"] == name for event in events):
                return events
            if time.monotonic() > deadline_s:
                pytest.fail(f"no {name} within {timeout_s} s: {result.stdout}")
            time.sleep(0.2)

    def pid(self, service: str) -> int:
        """The process id of the only instance of a service."""
        (row,) = [row for row in self.status()["instances"] if row["service"] == service]
        return row["pid"]


STDIO_TOOLS = {"MLXMESH_TOOLS_STDIO_WITHOUT_USERS": "true"}
"""For a mesh without users whose MCP servers are commands."""


def start_mesh(
    data_dir: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> RunningMesh:
    """Start a mesh in the background on a free port."""
    fixed = ("--detach", "--json", "--data-dir", str(data_dir), "--grpc-port", "0")
    if "--http-port" not in arguments:
        fixed = (*fixed, "--http-port", "0")
    result = mlxmesh("up", *fixed, *arguments, env=env)
    assert result.returncode == 0, result.stderr + result.stdout
    up = json.loads(result.stdout)
    return RunningMesh(data_dir, up["address"], up["http"])


def stop_mesh(mesh: RunningMesh) -> None:
    """Stop it, and check that nothing is left."""
    result = mesh.command("down")
    assert result.returncode == 0, result.stderr
    assert processes_of(mesh.data_dir) == []


def wait_until_serving(mesh: RunningMesh, timeout_s: float = 60) -> None:
    """Until every service and the engine answer their health checks."""
    wanted = {"gateway", "generation", "model", "runtime", "engine"}
    mesh.until(lambda status: serving(status) == wanted, timeout_s)


def serving(status: Mapping[str, Any]) -> set[str]:
    """The services of which an instance serves."""
    return {row["service"] for row in status["instances"] if row["state"] == "serving"}


async def until_used(client: MeshClient, service: str, count: int, timeout_s: float = 60) -> None:
    """Until calls may go to so many instances: whoever sends them learns it after `status`."""
    async with asyncio.timeout(timeout_s):
        while len([one for one in await client.mesh_status() if _is_used(one, service)]) < count:
            await asyncio.sleep(0.1)


def _is_used(instance: telemetry_pb2.Instance, service: str) -> bool:
    is_known = instance.service == service and instance.HasField("breaker")
    return is_known and instance.health == telemetry_pb2.HEALTH_SERVING
