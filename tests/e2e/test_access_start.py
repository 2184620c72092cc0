"""The access service runs only on meshes that use it: from its first use on, like any service."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxmesh.control.v1 import launcher_pb2 as pb
from mlxmesh_cli.mesh.supervisor import launcher_of
from mlxmesh_launcher.record import read_record
from mlxmesh_shared.errors import ServiceUnavailable
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh
from tests.fakes.ports import free_port

REQUIRED = ["--authentication", "required"]
SIMULATED = {
    "MLXMESH_ENGINE_BACKEND": "simulated",
    # A gateway that is replaced waits for its connections to end by age.
    "MLXMESH_GATEWAY_MAX_CONNECTION_AGE_S": "2",
}


async def start_access(data_dir: Path) -> pb.StartServiceResponse:
    """What the mesh's launcher answers."""
    record = read_record(data_dir)
    assert record is not None
    async with launcher_of(record, None) as launcher:
        return await launcher.StartService(pb.StartServiceRequest(name="access"), timeout=90)


def rows(mesh: RunningMesh) -> list[dict[str, Any]]:
    return [row for row in mesh.status()["instances"] if row["service"] == "access"]


def pid_that_serves(mesh: RunningMesh, other_than: int, timeout_s: float = 60) -> int:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        found = [row["pid"] for row in rows(mesh) if row["state"] == "serving"]
        if found and found != [other_than]:
            return found[0]
        time.sleep(0.1)
    pytest.fail(f"no new access service within {timeout_s} s: {rows(mesh)}")


def gateway_arguments(mesh: RunningMesh) -> list[str]:
    return psutil.Process(mesh.pid("gateway")).cmdline()


@dataclass
class Meshes:
    """Starts the mesh of one data directory, and stops it at the end of the test."""

    data_dir: Path
    running: RunningMesh | None = None

    def start(self) -> RunningMesh:
        self.running = start_mesh(self.data_dir, env=SIMULATED)
        return self.running

    def stop(self) -> None:
        if self.running is not None:
            stop_mesh(self.running)
        self.running = None


@pytest.fixture
def meshes(tmp_path: Path) -> Iterator[Meshes]:
    meshes = Meshes(tmp_path)
    yield meshes
    meshes.stop()


def test_it_is_started_on_use_supervised_and_started_again(meshes: Meshes) -> None:
    mesh = meshes.start()
    assert rows(mesh) == []
    assert not (mesh.data_dir / "access.db").exists()
    missing = mesh.command("restart", "access")
    assert missing.returncode == 1
    assert "mlxmesh users create" in missing.stderr

    first = asyncio.run(start_access(mesh.data_dir))
    again = asyncio.run(start_access(mesh.data_dir))
    assert (first.started, again.started) == (True, False)
    assert first.service.pid == again.service.pid
    assert [row["pid"] for row in rows(mesh)] == [first.service.pid]
    assert mesh.command("logs", "access").returncode == 0

    os.kill(first.service.pid, signal.SIGKILL)
    restarted = pid_that_serves(mesh, first.service.pid)
    replaced = mesh.command("restart", "access", "gateway")
    assert replaced.returncode == 0, replaced.stderr
    pid_that_serves(mesh, restarted)

    meshes.stop()
    mesh = meshes.start()
    assert [row["state"] for row in rows(mesh)] == ["serving"]
    # Without users everybody on this machine may create the first one.
    assert REQUIRED[0] not in gateway_arguments(mesh)


def test_a_failed_start_is_told_and_may_be_tried_again(meshes: Meshes) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        settings = meshes.data_dir / "mlxmesh.toml"
        settings.write_text(f'[access]\nlisten = "127.0.0.1:{port}"\n')
        mesh = meshes.start()
        with pytest.raises(ServiceUnavailable, match=r"access ended with code 1.*cannot listen"):
            asyncio.run(start_access(meshes.data_dir))
        assert rows(mesh) == []
    assert asyncio.run(start_access(meshes.data_dir)).started
    assert [row["address"] for row in rows(mesh)] == [f"127.0.0.1:{port}"]
    # Two processes cannot listen there: the old one stops first.
    assert mesh.command("restart", "access").returncode == 0


def test_without_it_the_mesh_starts_all_the_same_and_goes_on_trying(meshes: Meshes) -> None:
    (meshes.data_dir / "access.db").write_bytes(b"not a database" * 1000)
    mesh = meshes.start()
    deadline_s = time.monotonic() + 60
    while not [row for row in rows(mesh) if row.get("last_exit")]:
        assert time.monotonic() < deadline_s
    # There may be users that only the database knows.
    assert gateway_arguments(mesh)[-2:] == REQUIRED
    with pytest.raises(ServiceUnavailable, match="access"):
        asyncio.run(start_access(meshes.data_dir))
