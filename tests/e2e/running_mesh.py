"""The whole mesh as processes, driven by the `mlxmesh` command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxmesh_client import CertificateFiles

MLXMESH = (sys.executable, "-m", "mlxmesh_cli")


def mlxmesh(
    *arguments: str, timeout_s: float = 200, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command, with more variables where given; the result holds exit code and output."""
    return subprocess.run(
        [*MLXMESH, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
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

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command against this mesh."""
        return mlxmesh(*arguments, "--data-dir", str(self.data_dir))

    def tls(self, role: str) -> CertificateFiles:
        """What a caller of this role connects with; for a mesh that was started with --tls."""
        return CertificateFiles.of_role(self.data_dir / "tls", role)

    def status(self) -> dict[str, Any]:
        """`mlxmesh status --json`."""
        result = self.command("status", "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

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
    deadline = time.monotonic() + timeout_s
    serving: set[str] = set()
    while time.monotonic() < deadline:
        rows = mesh.status()["instances"]
        serving = {row["service"] for row in rows if row["state"] == "serving"}
        if serving == wanted:
            return
        time.sleep(0.2)
    pytest.fail(f"only {serving} serve after {timeout_s} s")
