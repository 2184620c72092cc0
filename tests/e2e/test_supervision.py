"""`mlxmesh up` with settings, taken ports, other starts, and a data directory that fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mlxmesh_launcher.record import read_record
from tests.e2e.running_mesh import MLXMESH, RunningMesh, mlxmesh, start_mesh, stop_mesh
from tests.fakes.ports import free_ports

SIMULATED = {"MLXMESH_ENGINE_BACKEND": "simulated"}


def up(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return mlxmesh("up", "--detach", "--data-dir", str(data_dir), *arguments, env=SIMULATED)


def wait_for(
    row_of: str, mesh: RunningMesh, state: str, timeout_s: float = 60, *, last_exit: str = ""
) -> dict[str, object]:
    deadline_s = time.monotonic() + timeout_s
    rows: list[dict[str, object]] = []
    while time.monotonic() < deadline_s:
        rows = [row for row in mesh.status()["instances"] if row["service"] == row_of]
        if [row["state"] for row in rows] == [state] and last_exit in str(rows[0].get("last_exit")):
            return rows[0]
        time.sleep(0.1)
    pytest.fail(f"{row_of} is {rows} and not {state} after {timeout_s} s")


def test_listen_and_graces_of_the_settings_are_honoured_and_a_service_is_never_given_up(
    tmp_path: Path,
) -> None:
    gateway, http, generation = free_ports(3)
    (tmp_path / "mlxmesh.toml").write_text(
        f'[gateway]\nlisten = "127.0.0.1:{gateway}"\nhttp_listen = "127.0.0.1:{http}"\n'
        f'drain_grace_s = 3\n[generation]\nlisten = "127.0.0.1:{generation}"\n'
    )
    started = up(tmp_path)
    assert started.returncode == 0, started.stderr
    mesh = RunningMesh(tmp_path, f"127.0.0.1:{gateway}")
    record = read_record(tmp_path)
    assert record is not None
    assert (record.gateway, record.http) == (mesh.address, f"127.0.0.1:{http}")
    assert wait_for("generation", mesh, "serving")["address"] == f"127.0.0.1:{generation}"

    # One port cannot be had twice: the old process leaves first.
    restarted = mesh.command("restart", "generation", "--rolling")
    assert restarted.returncode == 0, restarted.stderr
    with taken_from(mesh, generation):
        # Its first end is the kill.
        wait_for("generation", mesh, "restarting", last_exit="cannot listen on")
        # In between it is started, and ends again.
        shown = (mesh.command("status").stdout for _ in range(20))
        assert any("restarting in" in text for text in shown)
    wait_for("generation", mesh, "serving")
    told = mesh.command("events", "--name", "service.crashed", "--json").stdout.splitlines()
    assert json.loads(told[0])["service_crashed"]["name"] == "generation"
    stop_mesh(mesh)


@contextmanager
def taken_from(mesh: RunningMesh, port: int) -> Iterator[None]:
    """The port of the generation service, which is killed, is another program's for a while."""
    os.kill(mesh.pid("generation"), signal.SIGKILL)
    deadline_s = time.monotonic() + 20
    while True:
        try:
            listener = socket.create_server(("127.0.0.1", port))
            break
        except OSError:
            assert time.monotonic() < deadline_s, f"port {port} was never free"
            time.sleep(0.005)
    with listener:
        yield


def test_taken_ports_are_told_at_once_and_by_default_others_are_used(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        ports = [str(server.getsockname()[1]) for server in (one, other)]
        refused = up(tmp_path, "--grpc-port", ports[0], "--http-port", ports[1])
    assert refused.returncode == 1
    assert all(port in refused.stderr for port in ports)
    assert len(refused.stderr.strip().splitlines()) == 1

    with _taken(50051), _taken(8051):
        started = up(tmp_path)
        assert started.returncode == 0, started.stderr
        assert "port 50051 is taken, so the gateway uses 5005" in started.stdout
        assert "port 8051 is taken, so the HTTP uses 80" in started.stdout
        record = read_record(tmp_path)
        assert record is not None
        mesh = RunningMesh(tmp_path, record.gateway)
        assert mesh.command("generate", "Hi", "--max-tokens", "2").returncode == 0
        stop_mesh(mesh)


@contextmanager
def _taken(port: int) -> Iterator[None]:
    """By this test, once a mesh of a test beside it has left it, or whoever keeps it."""
    give_up_at = time.monotonic() + 60
    with ExitStack() as stack:
        while time.monotonic() < give_up_at:
            try:
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                break
            except OSError:
                time.sleep(0.2)
        yield


def test_of_simultaneous_starts_one_wins_and_the_others_say_who(tmp_path: Path) -> None:
    command = [*MLXMESH, "up", "--detach", "--data-dir", str(tmp_path), "--grpc-port", "0"]
    starts = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **SIMULATED},
        )
        for _ in range(5)
    ]
    ends = [(start.communicate(timeout=200), start.returncode) for start in starts]
    assert sorted(code for _, code in ends) == [0, 1, 1, 1, 1], ends
    record = read_record(tmp_path)
    assert record is not None
    for (_, err), code in ends:
        if code:
            assert len(err.strip().splitlines()) == 1
            assert "a mesh already runs in" in err
    assert "launcher ERROR" not in (tmp_path / "logs" / "launcher.log").read_text()
    stop_mesh(RunningMesh(tmp_path, record.gateway))


def test_a_data_directory_that_is_removed_is_told_and_the_mesh_goes_on(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    mesh = start_mesh(data_dir, env=SIMULATED)
    # Moved first: its processes write into it while it is being removed.
    shutil.rmtree(data_dir.rename(tmp_path / "removed"))
    log = data_dir / "logs" / "launcher.log"
    deadline_s = time.monotonic() + 60
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    assert "the data directory was removed" in log.read_text()
    for service in ("gateway", "generation", "model", "runtime", "engine"):
        wait_for(service, mesh, "serving")
    time.sleep(4)
    assert len(log.read_text().splitlines()) == 1
    assert mesh.command("generate", "Hi", "--max-tokens", "2").returncode == 0
    assert "already runs" in up(data_dir).stderr
    stop_mesh(mesh)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system that root cannot write to either."""
    path = tmp_path / "read-only"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(path)]
    if sys.platform != "linux" or subprocess.run(command, check=False).returncode != 0:
        reason = "needs root on Linux, to mount a read-only file system"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("module", ["gateway", "generation", "model", "runtime", "launcher", "cli"])
def test_a_read_only_data_directory_is_one_line(read_only: Path, module: str) -> None:
    words = ["up"] if module == "cli" else []
    for data_dir in (read_only, read_only / "missing"):
        ended = subprocess.run(
            [sys.executable, "-m", f"mlxmesh_{module}", *words, "--data-dir", str(data_dir)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 1, ended.stderr
        assert f"{data_dir} cannot be used as the data directory" in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
