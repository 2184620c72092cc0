"""The last release is replaced by this version under load, as docs/deploy.md says."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.control.v1.process_pb2 import GetProcessRequest
from mlxmesh.control.v1.process_pb2_grpc import ProcessServiceStub
from mlxmesh_shared.rpc.channels import open_channel
from tests.e2e.running_mesh import processes_of
from tests.e2e.versions import (
    ROOT,
    Environment,
    last_landed,
    wheel_of_checkout,
    wheel_of_commit,
)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SERVICES = ["runtime", "model", "generation", "gateway"]
CALLS = ("Generate", "CountTokens", "chat")
UP = ("up", "--detach", "--json", "--grpc-port", "0", "--http-port", "0")
WAIT_S = 300


@dataclass(frozen=True)
class Versions:
    """The wheels of both versions."""

    old: Path
    new: Path

    @property
    def new_version(self) -> str:
        """As its processes report it."""
        return self.new.name.split("-")[1]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    folder = tmp_path_factory.mktemp("wheels")
    return Versions(
        wheel_of_commit(last_landed(), folder / "old"), wheel_of_checkout(folder / "new")
    )


@dataclass(frozen=True)
class Installed:
    """A data directory, and the environment whose mesh runs in it."""

    environment: Environment
    data_dir: Path

    def mesh(self, *arguments: str) -> str:
        """Runs `mlxmesh`; returns its output."""
        done = self.command(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `mlxmesh` in the environment."""
        return subprocess.run(
            [*self.environment.mlxmesh, *arguments, "--data-dir", str(self.data_dir)],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=self.data_dir.parent,
            env={**os.environ, "MLXMESH_GATEWAY_MAX_CONNECTION_AGE_S": "2"},
        )

    def rows(self) -> list[dict[str, Any]]:
        """The instances of `mlxmesh status`."""
        return json.loads(self.mesh("status", "--json"))["instances"]

    def store(self) -> None:
        """Puts something into the catalogue beside the bundled models."""
        self.mesh("alias", "pocket", "kept", "1")
        self.mesh("profiles", "set", "kept", "--context", "4096")
        self.mesh("models", "set", "pocket-mini", "--idle", "1h")

    def stored(self) -> list[Any]:
        """What is in the catalogue: models with aliases and policies, and profiles."""
        commands = (("models",), ("profiles", "list"))
        return [json.loads(self.mesh(*command, "--json")) for command in commands]


@contextmanager
def running(mesh: Installed) -> Iterator[dict[str, str]]:
    """The mesh of what is installed; the end stops it by what is installed then."""
    up = json.loads(mesh.mesh(*UP))
    try:
        yield up
    finally:
        mesh.mesh("down")
    assert processes_of(mesh.data_dir) == []


@contextmanager
def load_on(up: dict[str, str], *environments: Environment) -> Iterator[list[dict[str, Any]]]:
    """Clients of these versions; the list has what each saw once the body has ended."""
    seen: list[dict[str, Any]] = []
    command = ("-m", "tests.e2e.upgrade_client", up["address"], up["http"])
    clients = [
        subprocess.Popen(
            [each.python, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for each in environments
    ]
    try:
        for each in clients:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        yield seen
        # All leave at the same time.
        for each in clients:
            assert each.stdin is not None
            each.stdin.close()
            each.stdin = None
        seen += [json.loads(each.communicate(timeout=WAIT_S)[0]) for each in clients]
    finally:
        for each in clients:
            each.kill()
            each.wait()


async def version_of(address: str) -> str:
    """The version that a process runs."""
    async with open_channel(address) as channel:
        return (await ProcessServiceStub(channel).GetProcess(GetProcessRequest())).version


def assert_kept(before: Any, after: Any) -> None:
    """Everything is still there; newer versions may tell more, and leave out what is empty."""
    if isinstance(before, dict):
        for key, value in before.items():
            if value:
                assert_kept(value, after[key])
    elif isinstance(before, list):
        for one, other in zip(before, after, strict=True):
            assert_kept(one, other)
    else:
        assert before == after


async def test_an_upgrade_fails_no_call(versions: Versions, tmp_path: Path) -> None:
    clients = {"old": versions.old, "new": versions.new}
    outside = [Environment.create(tmp_path / each) for each in clients]
    for environment, wheel in zip(outside, clients.values(), strict=True):
        environment.install(wheel)
    mesh = Installed(Environment.create(tmp_path / "env"), tmp_path / "data")
    mesh.environment.install(versions.old)
    with running(mesh) as up:
        mesh.store()
        before, stored = mesh.rows(), mesh.stored()
        with load_on(up, *outside) as seen:
            mesh.environment.install(versions.new)
            restarted = json.loads(mesh.mesh("restart", "--rolling", "--json"))
        after = mesh.rows()
        assert_kept(stored, mesh.stored())
        assert restarted == {"restarted": SERVICES}
        for client in seen:
            assert client["errors"] == []
            assert all(client["completed"][what] for what in CALLS)
        assert {row["service"] for row in after} == {*SERVICES, "engine"}
        assert not {row["pid"] for row in before} & {row["pid"] for row in after}
        assert {await version_of(row["address"]) for row in after} == {versions.new_version}


def test_a_downgrade_needs_the_database_of_before(versions: Versions, tmp_path: Path) -> None:
    mesh = Installed(Environment.create(tmp_path / "env"), tmp_path / "data")
    catalogue, copy = mesh.data_dir / "model.db", tmp_path / "copy.db"
    mesh.environment.install(versions.old)
    with running(mesh):
        mesh.store()
        stored = mesh.stored()
        with (
            closing(sqlite3.connect(catalogue)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
    mesh.environment.install(versions.new)
    with running(mesh):
        mesh.mesh("alias", "pocket", "lost", "1")
    mesh.environment.install(versions.old)
    refused = mesh.command(*UP)
    assert refused.returncode == 1
    assert "was written by a newer mlxmesh" in refused.stderr
    for each in mesh.data_dir.glob("model.db*"):
        each.unlink()
    copy.rename(catalogue)
    with running(mesh):
        assert_kept(stored, mesh.stored())
        assert "lost" not in mesh.mesh("models", "--json")
