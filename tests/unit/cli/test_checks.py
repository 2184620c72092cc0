"""The checks of `mlxmesh doctor`."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path

from typer.testing import CliRunner

from mlxmesh_cli.commands.app import app
from mlxmesh_cli.commands.checks import (
    check_blas,
    check_disk,
    check_http_port,
    check_port,
    run_checks,
)
from mlxmesh_launcher.record import RecordFile
from mlxmesh_shared.registry import local_instance, open_registry
from mlxmesh_shared.settings import MeshSettings


def test_every_bad_finding_comes_with_the_fix(tmp_path: Path) -> None:
    checks = run_checks(tmp_path)
    assert [check.name for check in checks] == [
        "python", "versions", "device", "blas", "memory", "disk", "port",
        "http port",
    ]  # fmt: skip
    assert all(check.finding for check in checks)
    assert all(check.fix for check in checks if not check.ok)


def test_a_taken_port_is_found(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        taken = check_port(port, tmp_path)
        http_taken = check_http_port(port, tmp_path)
    assert not taken.ok
    assert "--grpc-port" in taken.fix
    assert not http_taken.ok
    assert "--http-port" in http_taken.fix
    assert check_port(port, tmp_path).ok


def test_a_port_of_this_very_mesh_is_not_taken(tmp_path: Path) -> None:
    record = RecordFile(tmp_path)
    record.claim()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        record.publish("127.0.0.1:1", http=f"127.0.0.1:{port}", control="127.0.0.1:2")
        assert check_http_port(port, tmp_path).finding == f"127.0.0.1:{port} serves this mesh"
    record.release()


async def test_nor_is_one_of_a_service_that_was_started_by_hand(tmp_path: Path) -> None:
    settings = MeshSettings(data_dir=tmp_path)
    registry = open_registry(settings)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as http_server,
    ):
        port, http = server.getsockname()[1], http_server.getsockname()[1]
        await registry.register(
            local_instance(
                settings, "gateway", "g-1", f"127.0.0.1:{port}", http=f"127.0.0.1:{http}"
            )
        )
        assert check_port(port, tmp_path).ok
        assert check_http_port(http, tmp_path).ok
    await registry.close()


def test_a_mesh_that_serves_elsewhere_does_not_need_the_usual_ports(tmp_path: Path) -> None:
    record = RecordFile(tmp_path)
    record.claim()
    record.publish("127.0.0.1:4242", control="", http="127.0.0.1:4243")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert check_port(port, tmp_path).finding == "127.0.0.1:4242 serves this mesh"
        assert check_http_port(port, tmp_path).finding == "127.0.0.1:4243 serves this mesh"


def test_disk_is_measured_where_the_directory_will_be(tmp_path: Path) -> None:
    assert check_disk(tmp_path / "not" / "yet").finding.endswith(str(tmp_path))


def test_json_is_a_list_of_checks(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--json", "--data-dir", str(tmp_path)])
    assert {check["name"] for check in json.loads(result.stdout)} >= {"blas", "port"}


def test_the_blas_in_use_is_named() -> None:
    """Wherever engines run, every machine has at least the one that mlxmesh makes."""
    blas = check_blas()
    assert blas.ok, blas.fix
    if sys.platform == "linux":
        assert re.search(r"openblas \(.*/libopenblas-[\d.]+-\w+\.so\)", blas.finding)
