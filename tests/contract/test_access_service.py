"""AccessService through the client: what the fake and the real service have in common."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_access.assembly import SERVICE_NAMES, open_access
from mlxmesh_client import (
    InvalidArgument,
    KeyNotFound,
    MeshClient,
    MeshError,
    PermissionDenied,
    QuotaNotFound,
    Unauthenticated,
    UserExists,
    UserNotFound,
)
from mlxmesh_client.access_requests import UserChanges
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import AccessSettings
from tests.fakes.access_service import FakeAccess, names, running_access
from tests.integration.gateway.conftest import Stand

PASSWORD = "correct horse battery"
NOW = datetime.now(UTC)
As = Callable[[str], MeshClient]


@asynccontextmanager
async def real_access(data_dir: Path) -> AsyncIterator[str]:
    """The address of a gateway with an access service behind it."""
    async with AsyncExitStack() as stack:
        stand = Stand(stack, data_dir)
        access = await open_access(stack, AccessSettings(data_dir=data_dir))
        server = MeshServer(services=access.services(), service_names=SERVICE_NAMES)
        instance = await stand.announce("access", "access-1", server)
        running = access.running(stand.registry, instance.instance_id)
        await stack.enter_async_context(running)
        yield await stand.gateway()


@pytest.fixture(params=["fake", "real"])
async def client_with(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[As]:
    """Opens a client of a mesh without users, by its key."""
    mesh = running_access(FakeAccess()) if request.param == "fake" else real_access(tmp_path)
    async with mesh as address, AsyncExitStack() as stack:
        clients: dict[str, MeshClient] = {}

        def open_(key: str) -> MeshClient:
            if key not in clients:
                clients[key] = MeshClient(address, api_key=key)
                stack.push_async_callback(clients[key].close)
            return clients[key]

        yield open_


@pytest.fixture
async def admin(client_with: As) -> MeshClient:
    """The client of the first user, ada, by a key of hers."""
    await client_with("").access.create_user("ada", password=PASSWORD, role="admin")
    tokens = await client_with("").access.sign_in("ada", PASSWORD)
    created = await client_with(tokens.access_token).access.create_key("own", role="admin")
    return client_with(created.secret)


@pytest.fixture
async def member(client_with: As, admin: MeshClient) -> MeshClient:
    """The client of bob, by a key of his."""
    await admin.access.create_user("bob", password=PASSWORD, team="research")
    return client_with((await admin.access.create_key("bob's", user="bob")).secret)


async def refused_soon(call: Callable[[], Awaitable[object]]) -> None:
    """Gateways hear of a change shortly after its call has ended."""
    async with asyncio.timeout(30):
        while True:
            try:
                await call()
            except Unauthenticated:
                return
            await asyncio.sleep(0.01)


async def test_the_first_user_must_be_an_admin(client_with: As) -> None:
    access = client_with("").access
    assert not (await access.sign_in_options()).has_users
    with pytest.raises(IllegalState):
        await access.create_user("ada", password=PASSWORD)
    with pytest.raises(IllegalState):
        await access.create_user("bot", kind="service_account", role="member")
    user = await access.create_user("ada", password=PASSWORD, role="admin", team="ops")
    assert (user.name, user.team, user.kind) == ("ada", "ops", pb.USER_KIND_PERSON)
    assert (user.state, user.role) == (pb.USER_STATE_ACTIVE, pb.ACCESS_ROLE_ADMIN)
    assert (await access.sign_in_options()).has_users
    await refused_soon(access.list_users)


async def test_users_are_created_listed_changed_and_removed(admin: MeshClient) -> None:
    access = admin.access
    bot = await access.create_user("ci-bot", kind="service_account", team="research")
    assert bot.kind == pb.USER_KIND_SERVICE_ACCOUNT
    assert names(await access.list_users()) == ["ada", "ci-bot"]
    assert (await access.get_user("ci-bot")).team == "research"
    assert (await access.get_user()).name == "ada"

    assert (await access.update_user("ci-bot", team="")).team == ""
    disabled = await access.update_user("ci-bot", state="disabled")
    assert disabled.state == pb.USER_STATE_DISABLED
    assert (await access.update_user("ci-bot", role="admin")).role == pb.ACCESS_ROLE_ADMIN
    await access.delete_user("ci-bot")
    with pytest.raises(UserNotFound):
        await access.get_user("ci-bot")
    with pytest.raises(UserNotFound):
        await access.delete_user("ci-bot")


@pytest.mark.parametrize(
    ("arguments", "error", "field"),
    [
        ({"name": "Ada", "password": PASSWORD}, InvalidArgument, "name"),
        ({"name": "bob", "password": "short"}, InvalidArgument, "password"),
        ({"name": "bob"}, InvalidArgument, "password"),
        (
            {"name": "bob", "kind": "service_account", "password": PASSWORD},
            InvalidArgument,
            "password",
        ),
        ({"name": "bob", "password": PASSWORD, "team": "a b"}, InvalidArgument, "team"),
        ({"name": "bob", "password": PASSWORD, "role": "boss"}, InvalidArgument, "role"),
        ({"name": "ada", "password": PASSWORD}, UserExists, "name"),
    ],
)
async def test_a_wrong_user_is_refused_by_its_field(
    admin: MeshClient, arguments: Any, error: type[MeshError], field: str
) -> None:
    with pytest.raises(error) as caught:
        await admin.access.create_user(**arguments)
    assert caught.value.field == field
    assert PASSWORD not in str(caught.value)


async def test_the_last_admin_stays(admin: MeshClient) -> None:
    changes: list[UserChanges] = [{"state": "disabled"}, {"role": "member"}]
    for change in changes:
        with pytest.raises(IllegalState):
            await admin.access.update_user("ada", **change)
    with pytest.raises(IllegalState):
        await admin.access.delete_user("ada")


async def test_an_admins_key_cannot_be_limited_to_models(admin: MeshClient) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await admin.access.create_key("k", role="admin", models=["qwen*"])
    assert caught.value.field == "models"


async def test_a_key_is_shown_once_and_works_until_it_is_revoked(
    admin: MeshClient, client_with: As
) -> None:
    expires = NOW + timedelta(days=90)
    created = await admin.access.create_key("app", models=["qwen*", "pocket"], expires=expires)
    key = created.key
    assert (key.name, key.user, list(key.models)) == ("app", "ada", ["qwen*", "pocket"])
    assert key.role == pb.ACCESS_ROLE_MEMBER
    assert abs(key.expires.ToDatetime(UTC) - expires) < timedelta(seconds=1)
    assert created.secret.startswith(key.prefix)
    listed = (await admin.access.list_keys())[0]
    assert listed.key_id == key.key_id
    assert created.secret not in str(listed)

    own = client_with(created.secret).access
    assert (await own.get_user()).name == "ada"
    with pytest.raises(PermissionDenied):
        await own.list_users()
    assert (await admin.access.revoke_key(key.key_id)).HasField("revoked")
    await refused_soon(own.get_user)
    assert key.key_id not in {one.key_id for one in await admin.access.list_keys()}
    assert key.key_id in {one.key_id for one in await admin.access.list_keys(revoked=True)}
    with pytest.raises(KeyNotFound):
        await admin.access.revoke_key("k_unknown")


async def test_a_member_reaches_only_its_own(admin: MeshClient, member: MeshClient) -> None:
    own, all_keys = await member.access.list_keys(), await admin.access.list_keys()
    assert (names(own), len(all_keys)) == (["bob's"], 2)
    with pytest.raises(PermissionDenied):
        await member.access.create_key("more", role="admin")
    for call in (
        member.access.get_user("ada"),
        member.access.create_key("x", user="ada"),
        member.access.list_keys(user="ada"),
        member.access.revoke_key(next(one.key_id for one in all_keys if one.user == "ada")),
    ):
        with pytest.raises(MeshError) as caught:
            await call
        assert isinstance(caught.value, UserNotFound | KeyNotFound | PermissionDenied)
    for call in (
        member.access.list_users(),
        member.access.create_user("eve", password=PASSWORD),
        member.access.delete_user("bob"),
        member.access.set_quota(("user", "bob"), tokens_per_day=1),
        member.access.update_user("bob", role="admin"),
    ):
        with pytest.raises(PermissionDenied):
            await call
    with pytest.raises(PermissionDenied):
        _ = [entry async for entry in member.access.audit_entries()]


async def test_a_member_changes_its_password_with_the_old_one(
    member: MeshClient, client_with: As
) -> None:
    anybody = client_with("").access
    with pytest.raises(MeshError):
        await member.access.update_user("bob", password="another one")
    await member.access.update_user("bob", password="another one", old_password=PASSWORD)
    with pytest.raises(Unauthenticated):
        await anybody.sign_in("bob", PASSWORD)
    assert (await anybody.sign_in("bob", "another one")).user.name == "bob"


async def test_a_session_is_refreshed_once_with_each_token_and_ends(
    admin: MeshClient, client_with: As
) -> None:
    anybody = client_with("").access
    first = await anybody.sign_in("ada", PASSWORD)
    assert first.access_expires.ToDatetime(UTC) > datetime.now(UTC)
    assert (await client_with(first.access_token).access.get_user()).name == "ada"
    second = await anybody.refresh_session(first.refresh_token)
    assert second.user.name == "ada"
    assert second.refresh_token != first.refresh_token
    await anybody.sign_out(second.refresh_token)
    await anybody.sign_out("of nobody")
    with pytest.raises(Unauthenticated):
        await anybody.refresh_session(second.refresh_token)


async def test_wrong_names_and_wrong_passwords_get_one_answer(
    admin: MeshClient, client_with: As
) -> None:
    answers: set[str] = set()
    for name in ("ada", "nobody"):
        with pytest.raises(Unauthenticated) as caught:
            await client_with("").access.sign_in(name, "wrong password")
        answers.add(str(caught.value))
    assert len(answers) == 1


async def test_quotas_are_set_replaced_listed_and_removed(
    admin: MeshClient, member: MeshClient
) -> None:
    access = admin.access
    await access.set_quota(("user", "bob"), requests_per_minute=5, tokens_per_day=1000)
    await access.set_quota(("team", "research"), concurrent_generations=2)
    replaced = await access.set_quota(("user", "bob"), tokens_per_minute=10, tokens_per_month=99)
    assert not replaced.limits.HasField("requests_per_minute")
    assert replaced.limits.tokens_per_minute == 10
    await access.set_quota(("user", "ada"), tokens_per_day=1)
    assert len(await access.list_quotas()) == 3
    assert [one.limits for one in await access.list_quotas(("user", "bob"))] == [replaced.limits]
    assert len(await member.access.list_quotas()) == 2
    await access.delete_quota(("user", "bob"))
    with pytest.raises(QuotaNotFound):
        await access.delete_quota(("user", "bob"))
    with pytest.raises(QuotaNotFound):
        await access.list_quotas(("user", "bob"))
    with pytest.raises(InvalidArgument):
        await access.set_quota(("user", "bob"))
    with pytest.raises(UserNotFound):
        await access.set_quota(("user", "nobody"), tokens_per_day=1)
    with pytest.raises(KeyNotFound):
        await access.set_quota(("key", "k_nothing"), tokens_per_day=1)


async def test_changes_are_in_the_audit_log(admin: MeshClient, member: MeshClient) -> None:
    await admin.access.delete_user("bob")
    entries = [entry async for entry in admin.access.audit_entries()]
    assert (entries[0].action, entries[0].target) == ("user.deleted", "user:bob")
    keys = {key.key_id for key in await admin.access.list_keys()}
    assert entries[0].actor.removeprefix("key:") in keys
    assert "user.created" in {entry.action for entry in entries}
    own = [entry async for entry in admin.access.audit_entries(actor=entries[0].actor)]
    assert {entry.actor for entry in own} == {entries[0].actor}
    assert PASSWORD not in str(entries)


async def test_usage_without_calls_is_empty_or_zero(admin: MeshClient) -> None:
    rows = await admin.access.query_usage(group_by=["key", "day"], start=NOW - timedelta(days=2))
    assert sum(row.amounts.completion_tokens for row in rows) == 0
