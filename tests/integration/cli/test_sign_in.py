"""`mlxmesh login`, `logout` and `whoami`: sessions that are stored, renewed and ended."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mlxmesh_cli.mesh.credentials import CredentialFile, StoredSession
from mlxmesh_cli.mesh.sign_in import SessionKeys
from mlxmesh_client import Unauthenticated
from tests.integration.cli.conftest import PASSWORD, Shell
from tests.terminal import ENTER, Terminal, terminal


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


def test_a_session_that_replaces_a_stored_key_says_that_the_key_stays_active(admin: Shell) -> None:
    (key,) = admin.fake.keys.values()
    admin.ok("users", "create", "bob", "--password-file", "-", stdin=PASSWORD)
    told = admin.run("login", "bob", "--password-file", "-", stdin=PASSWORD)
    assert f"the stored key {key.key_id} of ada, which stays active" in told.stderr
    assert f"mlxmesh keys revoke {key.key_id}" in told.stderr
    again = admin.run("login", "ada", "--password-file", "-", stdin=PASSWORD)
    assert again.stderr == ""


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
    assert signed_in.ok("logout") == "signed out: the session of ada is forgotten here\n"
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


@pytest.fixture
def in_terminal(shell: Shell) -> Callable[..., AbstractAsyncContextManager[Terminal]]:
    """Runs a command in a terminal of its own."""

    def open_(*arguments: str) -> AbstractAsyncContextManager[Terminal]:
        env = {"XDG_CONFIG_HOME": str(shell.directory), "BROWSER": "true"}
        return terminal("-m", "mlxmesh_cli", *arguments, "--address", shell.address, env=env)

    return open_


async def test_passwords_are_asked_for_without_echo(shell: Shell, in_terminal: Any) -> None:
    async with in_terminal("users", "create", "ada", "--admin") as screen:
        await screen.shows("New password of ada: ")
        await screen.types(PASSWORD + ENTER)
        await screen.shows("The same again: ")
        await screen.types(PASSWORD + ENTER)
        assert await screen.ends() == 0
        assert PASSWORD not in screen.text
    assert shell.fake.accounts["ada"].password == PASSWORD
    async with in_terminal("users", "password", "ada") as screen:
        await screen.shows("New password of ada: ")
        await screen.types("one thing" + ENTER)
        await screen.shows("The same again: ")
        await screen.types("or another" + ENTER)
        await screen.shows("the two passwords differ")
        assert await screen.ends() == 1
    assert shell.fake.accounts["ada"].password == PASSWORD


async def test_the_issuer_sends_the_browser_back(signed_in: Shell, in_terminal: Any) -> None:
    signed_in.fake.issuer = "http://issuer.example"
    async with in_terminal("login", "--browser") as screen:
        await screen.shows("open this address to sign in:")
        await screen.shows("/callback\n")
        ((state, redirect),) = signed_in.fake.oidc_states.items()
        async with aiohttp.ClientSession() as browser:
            async with browser.get(redirect, params={"state": "forged", "code": "eve"}) as page:
                assert page.status == 200
            async with browser.get(redirect.replace("callback", "other")) as page:
                assert page.status == 404
            async with browser.get(redirect, params={"state": state, "code": "ada"}) as page:
                assert "close this window" in await page.text()
        await screen.shows("signed in as ada")
        assert await screen.ends() == 0


async def test_a_sign_in_that_the_issuer_refuses(signed_in: Shell, in_terminal: Any) -> None:
    signed_in.fake.issuer = "http://issuer.example"
    before = signed_in.credentials.read_text()
    async with in_terminal("login", "--browser") as screen:
        await screen.shows("/callback\n")
        ((state, redirect),) = signed_in.fake.oidc_states.items()
        async with aiohttp.ClientSession() as browser:
            params = {"state": state, "error": "access_denied"}
            async with browser.get(redirect, params=params) as page:
                assert page.status == 200
        await screen.shows("the issuer refused the sign-in (access_denied)")
        assert await screen.ends() == 1
    assert signed_in.credentials.read_text() == before


def test_a_mesh_without_an_issuer_says_so(signed_in: Shell) -> None:
    refused = signed_in.run("login", "--browser")
    assert refused.exit_code == 1
    assert "issuer" in refused.stderr
    assert "mlxmesh login ada" in signed_in.run("login").stderr


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
