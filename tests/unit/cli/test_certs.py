"""`mlxmesh certs`: an authority, certificates, their renewal and their list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlxmesh_cli.commands.app import app


def certs(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["certs", *arguments])
    return result.exit_code, result.output


def rows(*arguments: str) -> list[dict[str, Any]]:
    code, output = certs(*arguments, "--json")
    assert code == 0, output
    return json.loads(output)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    rows("init", "--data-dir", str(tmp_path))
    return tmp_path


def test_init_issues_for_every_role_into_the_data_directory(data_dir: Path) -> None:
    shown = rows("show", "--data-dir", str(data_dir))
    assert [row["role"] for row in shown] == [
        "ca", "gateway", "generation", "model", "runtime", "engine", "client", "admin", "access",
        "jobs", "worker", "tools",
    ]  # fmt: skip
    assert {Path(row["path"]).parent for row in shown} == {data_dir / "tls"}
    assert shown[1]["days_left"] == 89


def test_init_does_not_replace_an_authority(data_dir: Path) -> None:
    code, output = certs("init", "--data-dir", str(data_dir))
    assert code == 1
    assert "has an authority already" in output


def test_issue_takes_hosts_and_days(data_dir: Path) -> None:
    arguments = ("--host", "mac.example", "--days", "7", "--data-dir", str(data_dir))
    (row,) = rows("issue", "gateway", *arguments)
    assert "mac.example" in row["hosts"]
    assert row["days_left"] == 6


def test_rotate_changes_what_it_is_asked_to_and_keeps_the_hosts(data_dir: Path) -> None:
    files = {name: data_dir / "tls" / f"{name}.crt" for name in ("gateway", "engine")}
    before = {name: path.read_bytes() for name, path in files.items()}
    (row,) = rows("rotate", "gateway", "--data-dir", str(data_dir))
    assert "gateway.mlxmesh" in row["hosts"]
    assert files["gateway"].read_bytes() != before["gateway"]
    assert files["engine"].read_bytes() == before["engine"]


def test_show_without_certificates_says_what_to_do(tmp_path: Path) -> None:
    code, output = certs("show", "--dir", str(tmp_path))
    assert code == 1
    assert "mlxmesh certs init" in output


def test_show_is_a_table_for_people(data_dir: Path) -> None:
    code, output = certs("show", "--data-dir", str(data_dir))
    assert code == 0
    assert "gateway" in output
    assert "days left" in output
