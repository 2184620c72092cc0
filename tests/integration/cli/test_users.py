"""`mlxmesh users`: the first user, others, their changes, and what is refused."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_shared.errors import ServiceUnavailable
from tests.integration.cli.conftest import PASSWORD, Shell


def test_the_first_user_leaves_this_command_line_with_a_key(shell: Shell) -> None:
    created = shell.run("users", "create", "ada", "--admin", "--password-file", "-", stdin=PASSWORD)
    assert created.exit_code == 0, created.output
    assert created.stdout == "ada is created (admin)\n"
    assert "authentication is on" in created.stderr
    assert str(shell.credentials) in created.stderr
    (key,) = shell.fake.keys.values()
    assert (key.user, key.role) == ("ada", pb.ACCESS_ROLE_ADMIN)
    assert stat.S_IMODE(shell.credentials.stat().st_mode) == 0o600
    stored = shell.credentials.read_text()
    assert PASSWORD not in stored
    assert json.loads(stored)[shell.address]["key_id"] == key.key_id
    # The session that created it has ended.
    assert shell.fake.refresh_tokens == {}

    assert [user["name"] for user in shell.json("users", "list")["users"]] == ["ada"]
    assert f"ada (admin), by the stored key {key.key_id}" in shell.ok("whoami")


@pytest.mark.parametrize("options", [[], ["--service-account", "--admin"], ["--service-account"]])
def test_the_first_user_must_be_an_admin_who_can_sign_in(shell: Shell, options: list[str]) -> None:
    given = [] if "--service-account" in options else ["--password-file", "-"]
    refused = shell.run("users", "create", "ada", *options, *given, stdin=PASSWORD)
    assert refused.exit_code == 1
    assert "mlxmesh users create NAME --admin" in refused.stderr
    assert shell.fake.accounts == {}


def test_further_users_and_service_accounts(admin: Shell) -> None:
    bob = admin.run("users", "create", "bob", "--team", "research", "--password-file", "-",
                    stdin=PASSWORD + "\nsecond line")  # fmt: skip
    assert bob.stdout == "bob is created (member)\n"
    assert bob.stderr == ""
    bot = admin.run("users", "create", "ci", "--service-account")
    assert "mlxmesh keys create NAME --user ci" in bot.stderr
    assert admin.fake.accounts["bob"].password == PASSWORD
    table = admin.ok("users", "list").splitlines()
    assert [line.split()[0] for line in table] == ["user", "ada", "bob", "ci"]
    assert "service account" in table[3]
    shown = admin.ok("users", "show", "bob")
    assert "research" in shown


def test_users_are_changed_and_removed(admin: Shell) -> None:
    admin.ok("users", "create", "bob", "--password-file", "-", stdin=PASSWORD)
    assert admin.json("users", "disable", "bob")["state"] == "disabled"
    assert admin.json("users", "enable", "bob")["state"] == "active"
    assert admin.json("users", "set-role", "bob", "admin")["role"] == "admin"
    assert admin.json("users", "set-team", "bob", "ops")["team"] == "ops"
    assert "no team" in admin.ok("users", "set-team", "bob", "")
    admin.fake.accounts["bob"].user.state = pb.USER_STATE_PENDING
    assert "bob may use the mesh" in admin.ok("users", "approve", "bob")
    admin.ok("users", "password", "bob", "--password-file", "-", stdin="new password")
    assert admin.fake.accounts["bob"].password == "new password"
    assert admin.json("users", "delete", "bob") == {"deleted": "bob"}
    gone = admin.run("users", "show", "bob")
    assert gone.exit_code == 1
    assert "bob" in gone.stderr


def test_a_member_gives_its_old_password_for_a_new_one(admin: Shell, tmp_path: Path) -> None:
    admin.ok("users", "create", "bob", "--password-file", "-", stdin=PASSWORD)
    admin.ok("login", "bob", "--password-file", "-", stdin=PASSWORD)
    old = tmp_path / "old"
    change = ("users", "password", "bob", "--old-password-file", str(old), "--password-file", "-")
    old.write_text("wrong password")
    assert admin.run(*change, stdin="new password").exit_code == 1
    old.write_text(PASSWORD + "\n")
    admin.ok(*change, stdin="new password")
    assert admin.fake.accounts["bob"].password == "new password"


def test_members_read_that_only_admins_may(admin: Shell) -> None:
    admin.ok("users", "create", "bob", "--password-file", "-", stdin=PASSWORD)
    key = admin.json("keys", "create", "app")["secret"]
    with_key = admin.run("users", "list", MLXMESH_API_KEY=key)
    assert "this key of ada has the role member, and only admins may do this" in with_key.stderr
    admin.ok("login", "bob", "--password-file", "-", stdin=PASSWORD)
    for command in (["users", "list"], ["audit"], ["quotas", "delete", "user:bob"]):
        refused = admin.run(*command)
        assert refused.exit_code == 1
        assert refused.stderr == "error: bob is a member, and only admins may do this\n"
    more = admin.run("keys", "create", "app", "--admin")
    assert "role" in more.stderr
    assert "is a member" not in more.stderr


@pytest.mark.parametrize("command", ["create", "password"])
@pytest.mark.parametrize("password", ["short", "x" * 257, ""])
def test_a_password_of_the_wrong_length_changes_nothing(
    admin: Shell, command: str, password: str
) -> None:
    refused = admin.run("users", command, "ada", "--password-file", "-", stdin=password)
    assert refused.exit_code == 1
    assert "8 to 256 characters" in refused.stderr
    assert admin.fake.accounts["ada"].password == PASSWORD


def test_a_password_is_never_an_argument_and_is_asked_for_only_on_a_terminal(admin: Shell) -> None:
    refused = admin.run("users", "create", "bob", stdin=PASSWORD)
    assert refused.exit_code == 1
    assert "--password-file" in refused.stderr
    missing = admin.run("users", "create", "bob", "--password-file", "/no/such/file")
    assert missing.stderr == "error: /no/such/file: No such file or directory\n"
    assert admin.run("users", "create", "bob", "--password", PASSWORD).exit_code == 2


def test_errors_name_the_field_and_are_json_where_the_output_is(admin: Shell) -> None:
    again = admin.run("users", "create", "ada", "--password-file", "-", "--json", stdin=PASSWORD)
    assert again.exit_code == 1
    error = json.loads(again.stderr)["error"]
    assert (error["code"], error["reason"]) == ("ALREADY_EXISTS", "USER_EXISTS")
    wrong = admin.run("users", "create", "Ada Lovelace", "--password-file", "-", stdin=PASSWORD)
    assert wrong.stderr.startswith("error: name")


def test_an_open_mesh_says_so(shell: Shell) -> None:
    assert "turns authentication on" in shell.ok("users", "list")
    assert "nobody: this mesh has no users" in shell.ok("whoami")
    assert shell.json("whoami")["has_users"] is False


def test_where_no_launcher_runs_the_service_must_be_started_by_hand(shell: Shell) -> None:
    shell.fake.failures = [ServiceUnavailable("no access service")] * 8
    refused = shell.run("users", "create", "ada", "--admin", "--password-file", "-", stdin=PASSWORD)
    assert refused.exit_code == 1
    assert "python -m mlxmesh_access" in refused.stderr
