"""The story of users: an open mesh, its first user, keys of programs, quotas, usage, a restart."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlxmesh_client import MeshClient, QuotaExceeded, Unauthenticated
from tests.e2e.running_mesh import RunningMesh, mlxmesh, start_mesh, stop_mesh

SIMULATED = {
    "MLXMESH_ENGINE_BACKEND": "simulated",
    # A gateway that is replaced waits for its connections to end by age.
    "MLXMESH_GATEWAY_MAX_CONNECTION_AGE_S": "2",
}
PASSWORD = "correct horse battery"
GENERATE = ("generate", "Once upon a time", "--max-tokens", "3", "--model", "pocket")


@dataclass
class Story:
    """A mesh, its owner's command line, and one of somebody else who knows its address only."""

    mesh: RunningMesh
    elsewhere: Path

    def owner(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return mlxmesh(*arguments, "--data-dir", str(self.mesh.data_dir), stdin=stdin)

    def owner_ok(self, *arguments: str, stdin: str = "") -> str:
        result = self.owner(*arguments, stdin=stdin)
        assert result.returncode == 0, (arguments, result.stderr)
        return result.stdout

    def other(self, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
        env = {"XDG_CONFIG_HOME": str(self.elsewhere), "MLXMESH_API_KEY": key}
        return mlxmesh(*arguments, "--address", self.mesh.address, env=env)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    directory = tmp_path_factory.mktemp("mesh")
    story = Story(start_mesh(directory, env=SIMULATED), tmp_path_factory.mktemp("elsewhere"))
    yield story
    stop_mesh(story.mesh)


def test_users_from_the_first_to_a_restart(story: Story) -> None:
    open_mesh_becomes_closed(story)
    key, key_id = a_program_has_a_key(story)
    quotas_hold(story, key, key_id)
    usage_is_shown(story, key_id)
    nothing_opens_again(story, key)
    sessions_begin_and_end(story)
    secrets_are_nowhere(story, key)


def open_mesh_becomes_closed(story: Story) -> None:
    assert story.other(*GENERATE).returncode == 0
    create = ("users", "create", "ada", "--admin", "--password-file", "-")
    created = story.owner(*create, stdin=PASSWORD)
    assert created.returncode == 0, created.stderr
    assert "authentication is on" in created.stderr

    refused = story.other(*GENERATE)
    assert refused.returncode == 1
    assert "mlxmesh login" in refused.stderr
    for command in (["models"], ["users", "list"], ["top", "--json"], ["events"], ["usage"]):
        assert story.other(*command).returncode == 1, command
    story.owner_ok(*GENERATE)
    assert story.owner_ok("users", "list").splitlines()[1].split()[0] == "ada"
    assert "ada (admin), by the stored key" in story.owner_ok("whoami")
    status = story.mesh.until(lambda status: status["problems"] == [])
    assert "access" in {row["service"] for row in status["instances"]}


def a_program_has_a_key(story: Story) -> tuple[str, str]:
    story.owner_ok("users", "create", "ci", "--service-account", "--team", "builds")
    created = json.loads(story.owner_ok("keys", "create", "nightly", "--user", "ci", "--json"))
    key, key_id = created["secret"], created["key"]["key_id"]
    assert story.other(*GENERATE, key=key).returncode == 0
    assert story.other("users", "list", key=key).returncode == 1
    narrow = story.owner_ok("keys", "create", "narrow", "--user", "ci", "--model", "qwen*").strip()
    refused = story.other(*GENERATE, "--json", key=narrow)
    assert json.loads(refused.stderr)["error"]["code"] == "PERMISSION_DENIED"
    return key, key_id


def quotas_hold(story: Story, key: str, key_id: str) -> None:
    story.owner_ok("quotas", "set", f"key:{key_id}", "--requests-per-minute", "4")

    async def call_often() -> None:
        async with MeshClient(story.mesh.address, api_key=key, attempts=1) as client:
            # Some pass at the change of the minute, or while the gateway does not know the quota.
            for _ in range(20):
                await client.complete("pocket", prompt="Hi", max_tokens=2)

    with pytest.raises(QuotaExceeded) as caught:
        asyncio.run(call_often())
    assert caught.value.retry_delay_s
    story.owner_ok("quotas", "delete", f"key:{key_id}")


def usage_is_shown(story: Story, key_id: str) -> None:
    deadline_s = time.monotonic() + 60
    while True:
        rows = json.loads(story.owner_ok("usage", "--by", "key,model", "--json"))["usage"]
        mine = [row for row in rows if row["key_id"] == key_id and row["model"] == "pocket"]
        if mine and int(mine[0]["amounts"]["completion_tokens"]) >= 3:
            break
        assert time.monotonic() < deadline_s, rows
        time.sleep(0.5)
    table = story.owner_ok("usage", "--by", "user,day")
    assert "ci" in table
    assert "ada" in table
    audit = story.owner_ok("audit")
    assert "user.created" in audit
    assert PASSWORD not in audit


def nothing_opens_again(story: Story, key: str) -> None:
    story.owner_ok("restart", "access", "gateway")
    assert story.other(*GENERATE).returncode == 1
    story.owner_ok(*GENERATE)
    stop_mesh(story.mesh)
    story.mesh = start_mesh(story.mesh.data_dir, env=SIMULATED)
    assert story.other(*GENERATE).returncode == 1
    story.owner_ok(*GENERATE)
    assert story.other(*GENERATE, key=key).returncode == 0
    story.owner_ok("users", "disable", "ci")
    _until_refused(story, key)


def _until_refused(story: Story, key: str) -> None:
    async def refused() -> bool:
        async with MeshClient(story.mesh.address, api_key=key, attempts=1) as client:
            try:
                await client.list_models()
            except Unauthenticated:
                return True
            return False

    deadline_s = time.monotonic() + 60
    while not asyncio.run(refused()):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def sessions_begin_and_end(story: Story) -> None:
    story.owner_ok("logout")
    refused = story.owner(*GENERATE)
    assert refused.returncode == 1
    assert "mlxmesh login" in refused.stderr
    (problem,) = story.mesh.until(lambda status: len(status["problems"]) == 1)["problems"]
    assert "mlxmesh login" in problem
    story.owner_ok("login", "ada", "--password-file", "-", stdin=PASSWORD)
    story.owner_ok(*GENERATE)
    assert "by a session" in story.owner_ok("whoami")


def secrets_are_nowhere(story: Story, key: str) -> None:
    """Neither in logs nor in databases nor in what the gateway keeps."""
    for path in filter(Path.is_file, story.mesh.data_dir.rglob("*")):
        content = path.read_bytes()
        assert PASSWORD.encode() not in content, path
        assert key.encode() not in content, path


def test_a_user_before_any_admin_leaves_the_mesh_open(tmp_path: Path) -> None:
    story = Story(start_mesh(tmp_path, env=SIMULATED), tmp_path / "elsewhere")
    try:
        refused = story.owner("users", "create", "bob", "--password-file", "-", stdin=PASSWORD)
        assert refused.returncode == 1
        assert "--admin" in refused.stderr
        assert not (tmp_path / "access.db").exists()
        assert story.other(*GENERATE).returncode == 0
    finally:
        stop_mesh(story.mesh)
