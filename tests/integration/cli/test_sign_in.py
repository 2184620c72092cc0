"""`mlxmesh login`, `logout` and `whoami`: sessions that are stored, renewed and ended."""

from __future__ import annotations

import asyncio
import json
import stat
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mlxmesh_cli.mesh.credentials import CredentialFile, StoredSession
from mlxmesh_cli.mesh.sign_in import SessionKeys
from mlxmesh_client import Unauthenticated
from tests.integration.cli.conftest import PASSWORD, Shell


def session(shell: Shell) -> StoredSession:
    found = CredentialFile(shell.credentials, shell.address).read()
    assert isinstance(found, StoredSession)
    return found


def expire(shell: Shell) -> None:
    """Makes the stored access token old."""
    old = replace(session(shell), access_token="expired", access_expires_s=0)
    CredentialFile(shell.credentials, shell.address).write(old)


@pytest.fixture
def signed_in(admin: Shell) -> Shell:
    admin.ok("login", "ada", "--password-file", "-", stdin=PASSWORD)
    return admin


def test_a_session_is_stored_for_its_owner_only_and_used(signed_in: Shell) -> None:
    assert stat.S_IMODE(signed_in.credentials.stat().st_mode) == 0o600
    assert PASSWORD not in signed_in.credentials.read_text()
    assert "ada (admin), by a session" in signed_in.ok("whoami")
    assert signed_in.json("whoami")["user"]["name"] == "ada"


def test_a_wrong_password_is_refused_and_the_stored_key_stays(admin: Shell) -> None:
    before = admin.credentials.read_text()
    refused = admin.run("login", "ada", "--password-file", "-", stdin="wrong password")
    assert refused.exit_code == 1
    assert "wrong password" not in refused.output
    assert admin.credentials.read_text() == before


def test_an_old_access_token_is_renewed_and_stored(signed_in: Shell) -> None:
    before = session(signed_in)
    expire(signed_in)
    assert "by a session" in signed_in.ok("whoami")
    after = session(signed_in)
    assert after.refresh_token != before.refresh_token
    assert after.access_expires_s > before.access_expires_s - 1
    assert list(signed_in.fake.refresh_tokens) == [after.refresh_token]


async def test_concurrent_commands_refresh_a_session_once(signed_in: Shell) -> None:
    expire(signed_in)
    file = CredentialFile(signed_in.credentials, signed_in.address)
    commands = [SessionKeys(file, session(signed_in), signed_in.address, None) for _ in range(4)]
    tokens = await asyncio.gather(*(command() for command in commands for _ in range(2)))
    assert set(tokens) == {session(signed_in).access_token}
    assert len(signed_in.fake.refresh_tokens) == 1


async def test_a_session_that_has_ended_is_forgotten(signed_in: Shell) -> None:
    expire(signed_in)
    signed_in.fake.refresh_tokens.clear()
    file = CredentialFile(signed_in.credentials, signed_in.address)
    keys = SessionKeys(file, session(signed_in), signed_in.address, None)
    with pytest.raises(Unauthenticated, match="mlxmesh login ada"):
        await keys()
    assert file.read() is None


def test_logout_ends_the_session(signed_in: Shell) -> None:
    assert "session of ada is forgotten" in signed_in.ok("logout")
    assert not signed_in.credentials.exists()
    assert signed_in.fake.refresh_tokens == {}
    again = signed_in.run("logout", "--json")
    assert json.loads(again.stderr)["error"]["reason"] == "NOT_SIGNED_IN"


def test_logout_revokes_the_stored_key(admin: Shell) -> None:
    (key,) = admin.fake.keys.values()
    assert admin.json("logout") == {"user": "ada", "ended": True}
    assert key.HasField("revoked")
    assert admin.run("users", "list").exit_code == 1


def test_logout_forgets_what_the_mesh_refuses(admin: Shell) -> None:
    admin.fake.keys.clear()
    result = admin.run("logout")
    assert result.exit_code == 0
    assert "may still work" in result.stderr
    assert not admin.credentials.exists()


def test_the_credentials_of_other_meshes_stay(admin: Shell) -> None:
    other = StoredSession("eve", "a", 1.0, "r", 2.0)
    CredentialFile(admin.credentials, "mesh.example:50051").write(other)
    admin.ok("logout")
    assert json.loads(admin.credentials.read_text()) == {"mesh.example:50051": asdict(other)}


@pytest.mark.parametrize("content", ["{", "[]", '{"ADDRESS": {"user": "ada"}}'])
def test_a_damaged_file_is_an_error_that_says_what_to_do(admin: Shell, content: str) -> None:
    admin.credentials.write_text(content.replace("ADDRESS", admin.address))
    refused = admin.run("users", "list")
    assert refused.exit_code == 1
    assert "is damaged; remove it" in refused.stderr


def test_a_file_of_somebody_else_counts_as_none(tmp_path: Path) -> None:
    # A directory in its place fails likewise for root, whom permissions do not stop.
    assert CredentialFile(tmp_path / "none" / "credentials.json", "local").read() is None


def test_completion_knows_users_keys_and_subjects(signed_in: Shell) -> None:
    signed_in.ok("users", "create", "bob", "--team", "ops", "--password-file", "-", stdin=PASSWORD)

    def completed(words: str) -> list[str]:
        env = {"_MLXMESH_COMPLETE": "complete_bash", "COMP_WORDS": f"mlxmesh {words}",
               "COMP_CWORD": str(len(words.split(" ")))}  # fmt: skip
        env["MLXMESH_ADDRESS"] = signed_in.address
        from typer.testing import CliRunner

        from mlxmesh_cli.commands.app import app

        return CliRunner().invoke(app, [], env=env, prog_name="mlxmesh").stdout.split()

    assert completed("users show b") == ["bob"]
    assert completed("quotas set team:") == ["team:ops"]
