"""`mlxmesh keys`, `quotas`, `usage` and `audit`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from mlxmesh.access.v1 import access_pb2 as pb
from tests.integration.cli.conftest import PASSWORD, Shell


def test_a_new_key_is_alone_on_standard_output(admin: Shell) -> None:
    created = admin.run("keys", "create", "app", "--model", "qwen*", "--expires", "90d")
    assert created.exit_code == 0, created.output
    secret = created.stdout.strip()
    assert created.stdout == f"{secret}\n"
    key = next(key for key in admin.fake.keys.values() if key.name == "app")
    assert secret.startswith(key.prefix)
    assert key.key_id in created.stderr
    assert secret not in created.stderr
    assert (list(key.models), key.role) == (["qwen*"], pb.ACCESS_ROLE_MEMBER)
    days = (key.expires.ToDatetime(UTC) - datetime.now(UTC)) / timedelta(days=1)
    assert 89 < days < 91
    # The key in the environment comes before the stored one.
    identity = admin.run("whoami", MLXMESH_API_KEY=secret)
    assert "ada (admin), by the key in MLXMESH_API_KEY" in identity.stdout
    assert admin.run("users", "list", MLXMESH_API_KEY=secret).exit_code == 1
    assert admin.run("--api-key", secret, "users", "list").exit_code == 1


def test_keys_of_service_accounts_are_listed_and_revoked(admin: Shell) -> None:
    admin.ok("users", "create", "ci", "--service-account")
    created = admin.json("keys", "create", "deploy", "--user", "ci")
    key_id = created["key"]["key_id"]
    assert created["secret"] not in admin.ok("keys", "list")
    assert [key["name"] for key in admin.json("keys", "list", "--user", "ci")["keys"]] == ["deploy"]
    assert f"{key_id} (deploy) of ci is revoked" in admin.ok("keys", "revoke", key_id)
    assert admin.ok("keys", "list", "--user", "ci").startswith("no keys")
    (revoked,) = admin.json("keys", "list", "--user", "ci", "--revoked")["keys"]
    assert revoked["revoked"]
    unknown = admin.run("keys", "revoke", "k_nothing", "--json")
    assert json.loads(unknown.stderr)["error"]["reason"] == "KEY_NOT_FOUND"


def test_a_key_is_revoked_by_what_only_it_begins_with(admin: Shell) -> None:
    one, other = (admin.json("keys", "create", name)["key"] for name in ("one", "other"))
    ambiguous = admin.run("keys", "revoke", "k_")
    assert ambiguous.exit_code == 1
    assert "3 keys begin with k_" in ambiguous.stderr
    # As where a script's variable is not set.
    assert admin.run("keys", "revoke", "").exit_code == 1
    assert not any(key.HasField("revoked") for key in admin.fake.keys.values())
    ids = {key_id for key_id in admin.fake.keys if key_id != one["key_id"]}
    unique = next(one["key_id"][:n] for n in range(3, 9)
                  if not any(each.startswith(one["key_id"][:n]) for each in ids))  # fmt: skip
    assert f"{one['key_id']} (one)" in admin.ok("keys", "revoke", unique)
    assert f"{other['key_id']} (other)" in admin.ok("keys", "revoke", other["prefix"])


def test_a_refused_key_says_what_to_do(admin: Shell) -> None:
    refused = admin.run("keys", "list", MLXMESH_API_KEY="mlx_of_nobody")
    assert refused.exit_code == 1
    assert "mlxmesh login" in refused.stderr
    assert "mlx_of_nobody" not in refused.output
    admin.credentials.unlink()
    assert "set MLXMESH_API_KEY" in admin.run("keys", "list").stderr


def test_a_key_stays_on_this_machine_unless_told(
    admin: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXMESH_API_KEY", "mlx_secret")
    elsewhere = Shell(admin.fake, "192.0.2.1:50051", admin.directory)
    for command in (["keys", "list"], ["models"], ["status"]):
        refused = elsewhere.run(*command)
        assert refused.exit_code == 1
        assert "without TLS" in refused.stderr
        assert "--insecure-key" in refused.stderr
        assert "mlx_secret" not in refused.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["keys", "create", "app", "--expires", "soon"], "duration or a time"),
        (["keys", "create", "app", "--expires", "2020-01-01"], "in the future"),
        (["quotas", "set", "ada", "--tokens-per-day", "1"], "user:NAME"),
        (["quotas", "set", "user:", "--tokens-per-day", "1"], "user:NAME"),
        (["quotas", "set", "user:ada", "--tokens-per-day", "0"], "greater than or equal to 1"),
        (["usage", "--by", "key,week"], "hour or day"),
        (["usage", "--from", "yesterday"], "duration or a time"),
        (["audit", "-n", "0"], "greater than or equal to 1"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_right(
    admin: Shell, arguments: list[str], says: str
) -> None:
    refused = admin.run(*arguments)
    assert refused.exit_code == 2
    assert says in " ".join(refused.stderr.replace("│", " ").split())


def test_quotas_are_set_replaced_listed_and_removed(admin: Shell) -> None:
    admin.ok("quotas", "set", "user:ada", "--requests-per-minute", "60")
    replaced = admin.json(
        "quotas", "set", "user:ada", "--tokens-per-day", "1000000", "--concurrent", "4"
    )
    assert replaced["limits"] == {"tokens_per_day": "1000000", "concurrent_generations": 4}
    admin.ok("quotas", "set", "team:research", "--tokens-per-month", "5")
    admin.fake.quotas["user:ada"].used.tokens_this_day = 1234
    header, *rows = admin.ok("quotas", "list").splitlines()
    assert "tokens/day" in header
    assert "requests/min" not in header
    assert "1,234/1,000,000" in rows[1]
    assert len(admin.json("quotas", "list", "user:ada")["quotas"]) == 1
    admin.ok("quotas", "delete", "user:ada")
    assert "no quota" in admin.run("quotas", "delete", "user:ada").stderr
    assert admin.ok("quotas", "list", "user:ada").startswith("no quota of user:ada; set one with")
    assert admin.json("quotas", "list", "user:ada") == {"quotas": []}
    assert "at least one limit" in admin.run("quotas", "set", "user:ada").stderr
    assert "no user" in admin.run("quotas", "set", "user:x", "--tokens-per-day", "1").stderr


def test_members_are_not_told_to_set_quotas(admin: Shell) -> None:
    assert "mlxmesh quotas set" in admin.ok("quotas", "list")
    admin.ok("users", "create", "bob", "--password-file", "-", stdin=PASSWORD)
    admin.ok("login", "bob", "--password-file", "-", stdin=PASSWORD)
    assert admin.ok("quotas", "list") == "no quotas\n"
    assert admin.ok("quotas", "list", "user:bob") == "no quota of user:bob\n"
    assert "bob" in admin.ok("users", "show", "bob")


def test_usage_by_groups_has_a_total(admin: Shell) -> None:
    day = datetime(2026, 11, 29, tzinfo=UTC)
    for user, requests in (("ada", 3), ("", 2)):
        amounts = pb.UsageAmounts(
            requests=requests, prompt_tokens=1000, completion_tokens=50, device_s=1.25
        )
        row = pb.UsageRow(user=user, model="pocket", model_version=1, amounts=amounts)
        row.time.FromDatetime(day)
        admin.fake.usage.append(row)
    lines = admin.ok("usage", "--by", "user,model", "--by", "day", "--from", "7d").splitlines()
    assert lines[0].split()[:4] == ["user", "model", "day", "requests"]
    assert lines[1].split()[:4] == ["ada", "pocket@1", "2026-11-29", "3"]
    assert lines[2].split()[0] == "-"
    assert lines[3].split() == ["total", "5", "0", "2,000", "0", "100", "2.5"]
    query = admin.fake.usage_queries[-1]
    assert list(query.group_by) == [
        pb.USAGE_GROUP_USER,
        pb.USAGE_GROUP_MODEL,
        pb.USAGE_GROUP_DAY,
    ]
    assert len(admin.json("usage")["usage"]) == 2
    admin.fake.usage.clear()
    assert admin.ok("usage") == "no usage in this time\n"
    assert admin.ok("usage", "--by", "key") == "no usage in this time\n"
    assert admin.json("usage") == {"usage": []}
    admin.fake.usage.append(pb.UsageRow(amounts=pb.UsageAmounts()))
    assert admin.ok("usage") == "no usage in this time\n"


def test_the_audit_log_ends_with_the_newest_entry(admin: Shell) -> None:
    admin.ok("users", "create", "ci", "--service-account")
    lines = admin.ok("audit", "-n", "2").splitlines()
    assert len(lines) == 3
    assert "user.created" in lines[2]
    assert "user:ci" in lines[2]
    assert admin.ok("audit", "--actor", "user:nobody") == "no entries of user:nobody\n"
    assert admin.ok("audit", "--actor", "user:nobody", "--json") == ""
    entries = [json.loads(line) for line in admin.ok("audit", "--json").splitlines()]
    assert entries[-1]["target"] == "user:ci"
    actor = entries[-1]["actor"]
    assert actor.startswith("key:")
    assert {json.loads(line)["actor"] for line in
            admin.ok("audit", "--json", "--actor", actor).splitlines()} == {actor}  # fmt: skip
