"""Users and service accounts, in both kinds of database."""

import asyncio
from typing import Any

import pytest

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_access.accounts.users import MAX_PENDING_USERS, Users
from mlxmesh_shared.errors import (
    IllegalState,
    InvalidArgument,
    PermissionDenied,
    TooManyRequests,
    Unauthenticated,
    UserExists,
    UserNotFound,
)
from tests.integration.access.conftest import PASSWORD, Service, Services, names

ADMIN = pb.ACCESS_ROLE_ADMIN
MEMBER = pb.ACCESS_ROLE_MEMBER
ACTIVE = pb.USER_STATE_ACTIVE
DISABLED = pb.USER_STATE_DISABLED


async def test_the_first_user_must_be_an_active_admin(services: Services) -> None:
    service, _ = await services.start(sign_up=True)
    with pytest.raises(IllegalState, match="first user must be an admin"):
        await service.admin.CreateUser(name="ada", password=PASSWORD)
    with pytest.raises(IllegalState, match="first user must be an admin"):
        await service.nobody.SignUp(name="ada", password=PASSWORD)
    created = await service.admin.CreateUser(name="ada", password=PASSWORD, role=ADMIN)
    assert (created.user.state, created.user.role) == (ACTIVE, ADMIN)
    assert created.user.created.ToMilliseconds() == service.clock.now_ms
    signed_up = await service.nobody.SignUp(name="bob", password=PASSWORD)
    assert signed_up.user.state == pb.USER_STATE_PENDING


async def test_an_anonymous_admin_creates_the_first_user_and_then_nothing(service: Service) -> None:
    anonymous = service.anonymous_admin
    await anonymous.CreateUser(name="ada", password=PASSWORD, role=ADMIN)
    for call in (
        anonymous.CreateUser(name="eve", password=PASSWORD, role=ADMIN),
        anonymous.UpdateUser(name="ada", password=PASSWORD),
        anonymous.DeleteUser(name="ada"),
        anonymous.CreateKey(name="k", user="ada", role=ADMIN),
    ):
        with pytest.raises(Unauthenticated, match="there are users now"):
            await call
    assert names((await service.admin.ListUsers()).users) == ["ada"]
    assert not (await service.admin.ListKeys()).keys


async def test_where_authentication_is_off_an_admin_may_be_anonymous(service: Service) -> None:
    anonymous = service.anonymous_admin_of_open_gateway
    for name in ("ada", "bob"):
        await anonymous.CreateUser(name=name, password=PASSWORD, role=ADMIN)
    created = await anonymous.CreateKey(name="k", user="bob")
    assert created.key.user == "bob"


async def test_a_user_has_the_defaults_of_the_contract(service: Service) -> None:
    await service.add_users("ada", team="compilers")
    user = (await service.admin.GetUser(name="ada")).user
    assert (user.kind, user.role, user.team) == (pb.USER_KIND_PERSON, MEMBER, "compilers")
    assert not user.HasField("last_sign_in")


async def test_a_name_is_used_once(service: Service) -> None:
    await service.add_users("ada")
    with pytest.raises(UserExists) as caught:
        await service.admin.CreateUser(name="ada", password=PASSWORD)
    assert caught.value.field == "name"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"password": ""}, "password"),
        ({"password": "short"}, "password"),
        ({"kind": pb.USER_KIND_SERVICE_ACCOUNT, "password": PASSWORD}, "password"),
    ],
)
async def test_illegal_passwords(service: Service, fields: dict[str, Any], field: str) -> None:
    await service.add_users()
    with pytest.raises(InvalidArgument) as caught:
        await service.admin.CreateUser(name="ada", **fields)
    assert caught.value.field == field


async def test_a_service_account_has_no_password(service: Service) -> None:
    await service.add_users()
    created = await service.admin.CreateUser(name="ci", kind=pb.USER_KIND_SERVICE_ACCOUNT)
    assert created.user.kind == pb.USER_KIND_SERVICE_ACCOUNT
    with pytest.raises(InvalidArgument, match="no password"):
        await service.admin.UpdateUser(name="ci", password=PASSWORD)


async def test_users_are_listed_by_name_in_pages(service: Service) -> None:
    await service.add_users("eve", "ada", "bob")
    first = await service.admin.ListUsers(page_size=3)
    assert names(first.users) == ["ada", "bob", "eve"]
    second = await service.admin.ListUsers(page_size=3, page_token=first.next_page_token)
    assert names(second.users) == ["root"]
    assert second.next_page_token == ""


async def test_the_last_active_admin_is_protected(service: Service) -> None:
    await service.add_users("ada")
    for change in ({"state": DISABLED}, {"role": MEMBER}):
        with pytest.raises(IllegalState, match="last active admin"):
            await service.admin.UpdateUser(name="root", **change)
    with pytest.raises(IllegalState, match="last active admin"):
        await service.admin.DeleteUser(name="root")
    await service.admin.UpdateUser(name="ada", role=ADMIN)
    await service.admin.UpdateUser(name="root", state=DISABLED)
    with pytest.raises(IllegalState, match="last active admin"):
        await service.admin.DeleteUser(name="ada")
    await service.admin.DeleteUser(name="root")


async def test_only_what_is_set_changes(service: Service) -> None:
    await service.add_users("ada", team="compilers")
    changed = await service.admin.UpdateUser(name="ada", role=ADMIN)
    assert (changed.user.role, changed.user.team) == (ADMIN, "compilers")
    changed = await service.admin.UpdateUser(name="ada", team="")
    assert (changed.user.role, changed.user.team) == (ADMIN, "")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"state": pb.USER_STATE_PENDING}, "state"),
        ({"state": pb.USER_STATE_UNSPECIFIED}, "state"),
        ({"role": pb.ACCESS_ROLE_UNSPECIFIED}, "role"),
    ],
)
async def test_illegal_changes(service: Service, fields: dict[str, Any], field: str) -> None:
    await service.add_users("ada")
    with pytest.raises(InvalidArgument) as caught:
        await service.admin.UpdateUser(name="ada", **fields)
    assert caught.value.field == field


async def test_a_client_changes_its_own_password_only(service: Service) -> None:
    await service.add_users("ada", "bob")
    ada = service.user("ada")
    with pytest.raises(InvalidArgument) as missing:
        await ada.UpdateUser(name="ada", password="another password")
    assert missing.value.field == "old_password"
    with pytest.raises(Unauthenticated):
        await ada.UpdateUser(name="ada", password="another password", old_password="wrong one")
    await ada.UpdateUser(name="ada", password="another password", old_password=PASSWORD)
    await ada.UpdateUser(name="ada", password=PASSWORD, old_password="another password")
    for change in ({"role": ADMIN}, {"team": "x"}, {"state": ACTIVE}):
        with pytest.raises(PermissionDenied):
            await ada.UpdateUser(name="ada", **change)
    with pytest.raises(UserNotFound):
        await ada.UpdateUser(name="bob", password=PASSWORD, old_password=PASSWORD)


async def test_a_client_sees_itself_only(service: Service) -> None:
    await service.add_users("ada", "bob")
    ada = service.user("ada")
    assert (await ada.GetUser()).user.name == "ada"
    assert (await ada.GetUser(name="ada")).user.name == "ada"
    for name in ("bob", "nobody-at-all"):
        with pytest.raises(UserNotFound, match=f"there is no user {name}"):
            await ada.GetUser(name=name)
    with pytest.raises(UserNotFound):
        await service.admin.GetUser()  # a certificate is no user


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("CreateUser", {"name": "x", "password": PASSWORD}),
        ("ListUsers", {}),
        ("DeleteUser", {"name": "ada"}),
        ("SetQuota", {"subject": {"user": "ada"}, "limits": {"tokens_per_day": 1}}),
        ("DeleteQuota", {"subject": {"user": "ada"}}),
        ("ListAuditEntries", {}),
    ],
)
async def test_what_only_admins_may_do(
    sqlite_service: Service, method: str, fields: dict[str, Any]
) -> None:
    """Also if a gateway would let the call through."""
    await sqlite_service.add_users("ada")
    for caller in (sqlite_service.user("ada"), sqlite_service.nobody):
        with pytest.raises(PermissionDenied):
            await getattr(caller, method)(**fields)


async def test_sign_up_is_off_by_default(service: Service) -> None:
    await service.add_users()
    with pytest.raises(PermissionDenied, match="sign-up"):
        await service.nobody.SignUp(name="ada", password=PASSWORD)


async def test_an_approved_user_is_active(services: Services) -> None:
    service, _ = await services.start(sign_up=True)
    await service.add_users()
    await service.nobody.SignUp(name="ada", password=PASSWORD)
    approved = await service.admin.UpdateUser(name="ada", state=ACTIVE)
    assert approved.user.state == ACTIVE


async def test_a_removed_user_takes_its_keys_and_quotas_along(service: Service) -> None:
    await service.add_users("ada")
    key_id = (await service.add_key("ada")).key.key_id
    await service.admin.SetQuota(subject={"user": "ada"}, limits={"tokens_per_day": 9})
    await service.admin.SetQuota(subject={"key_id": key_id}, limits={"tokens_per_day": 9})
    await service.admin.DeleteUser(name="ada")
    assert list((await service.admin.ListKeys(revoked=True)).keys) == []
    assert list((await service.admin.ListQuotas()).quotas) == []
    with pytest.raises(UserNotFound):
        await service.admin.DeleteUser(name="ada")


async def test_two_services_cannot_remove_the_last_two_admins_at_once(services: Services) -> None:
    one, _ = await services.start()
    other, _ = await services.start()
    await one.add_users("ada", role=ADMIN)
    results = await asyncio.gather(
        one.admin.UpdateUser(name="root", state=DISABLED),
        other.admin.DeleteUser(name="ada"),
        return_exceptions=True,
    )
    assert [type(one) for one in results].count(IllegalState) == 1
    users = (await one.admin.ListUsers()).users
    assert [user.role for user in users if user.state == ACTIVE] == [ADMIN]


async def test_two_services_create_a_user_once(services: Services) -> None:
    stands = [(await services.start())[0] for _ in range(2)]
    await stands[0].add_users()
    account = {"name": "ci", "kind": pb.USER_KIND_SERVICE_ACCOUNT}
    calls = [stand.admin.CreateUser(**account) for _ in range(3) for stand in stands]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in results].count(UserExists) == 5


async def test_a_bounded_number_of_users_wait_for_approval(sqlite_service: Service) -> None:
    service = sqlite_service
    await service.add_users()
    waiting = (
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <"
        f" {MAX_PENDING_USERS}) INSERT INTO users SELECT 'u' || i, kind, 'pending', 'member',"
        " '', '', '', '', 1, 0, 0 FROM users, n"
    )
    async with service.access.database.transactions.write() as session:
        await session.fetch(waiting)
    users = Users(service.access.database, FixedHashes(), sign_up=True)
    with pytest.raises(TooManyRequests, match="wait for approval"):
        await users.sign_up("one-more", PASSWORD)


class FixedHashes:
    """Satisfies PasswordHashes, where the hash does not matter."""

    async def hash(self, password: str) -> str:
        return "x"

    async def matches(self, password_hash: str, password: str) -> bool:
        return True
