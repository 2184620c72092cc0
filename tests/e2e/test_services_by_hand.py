"""Services started one by one on one host, at its IPv6 loopback address: commands find them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running_mesh import mlxmesh, processes_of

SERVICES = ("runtime", "model", "generation", "gateway")
EVERYBODY = ["engine", "gateway", "generation", "model", "runtime"]
MODEL = Path(__file__).resolve().parents[2] / "deploy" / "demo-model" / "pocket-mini"
PATIENCE_S = 60


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a mesh with one model loaded."""
    data_dir = tmp_path_factory.mktemp("by-hand")
    sections = (*SERVICES, "engine")
    settings = "".join(f'[{name}]\nlisten = "[::1]:0"\n' for name in sections)
    http = 'http_listen = "[::1]:0"\n'
    (data_dir / "mlxmesh.toml").write_text(settings.replace("[engine]", f"{http}[engine]"))
    processes = [start(service, data_dir) for service in SERVICES]
    try:
        until_serving(data_dir, set(SERVICES))
        command(data_dir, "register", str(MODEL))
        command(data_dir, "load", "pocket-mini")
        yield data_dir
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(PATIENCE_S)
    assert processes_of(data_dir) == []


def start(service: str, data_dir: Path) -> subprocess.Popen[bytes]:
    with (data_dir / f"{service}.log").open("ab") as log:
        return subprocess.Popen(
            (sys.executable, "-m", f"mlxmesh_{service}", "--data-dir", str(data_dir)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def command(data_dir: Path, *words: str) -> str:
    done = mlxmesh(*words, "--data-dir", str(data_dir))
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(data_dir: Path) -> list[dict[str, Any]]:
    done = mlxmesh("status", "--json", "--data-dir", str(data_dir))
    return json.loads(done.stdout)["instances"] if done.returncode == 0 else []


def until_serving(data_dir: Path, services: set[str]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while {row["service"] for row in rows(data_dir) if row["state"] == "serving"} != services:
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


def test_status_shows_them(data_dir: Path) -> None:
    until_serving(data_dir, set(EVERYBODY))
    found = rows(data_dir)
    assert sorted(row["service"] for row in found) == EVERYBODY
    assert all(row["address"].startswith("[::1]:") for row in found)


def test_commands_find_the_gateway(data_dir: Path) -> None:
    assert command(data_dir, "generate", "Hi", "--model", "pocket-mini", "--max-tokens", "5")
    top = json.loads(command(data_dir, "top", "--json"))
    assert sorted(row["service"] for row in top["instances"]) == EVERYBODY
    assert "engine.ready" in command(data_dir, "events", "--json")


def test_an_address_in_brackets_is_taken(data_dir: Path) -> None:
    [gateway] = [row["address"] for row in rows(data_dir) if row["service"] == "gateway"]
    words = ("generate", "Hi", "--model", "pocket-mini", "--max-tokens", "5", "--address", gateway)
    done = mlxmesh(*words)
    assert done.returncode == 0, done.stderr


def test_one_of_them_is_drained(data_dir: Path) -> None:
    [runtime] = [row for row in rows(data_dir) if row["service"] == "runtime"]
    drained = json.loads(command(data_dir, "drain", runtime["instance_id"], "--json"))
    assert drained["gone"]
