"""API keys, in both kinds of database."""

import hashlib
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh_access.accounts.key_rows import COLUMNS
from mlxmesh_access.accounts.keys import MAX_KEYS_PER_USER
from mlxmesh_shared.errors import (
    IllegalState,
    InvalidArgument,
    KeyNotFound,
    PermissionDenied,
    Unauthenticated,
    UserNotFound,
)
from tests.integration.access.conftest import Service, names

ADMIN = pb.ACCESS_ROLE_ADMIN


def in_s(service: Service, seconds: int) -> Timestamp:
    time = Timestamp()
    time.FromMilliseconds(service.clock.now_ms + seconds * 1000)
    return time


async def test_the_whole_key_is_shown_once(service: Service) -> None:
    await service.add_users("ada")
    created = await service.user("ada").CreateKey(name="laptop", models=["qwen*"])
    assert created.secret.startswith(f"{created.key.prefix}_")
    assert (created.key.user, created.key.role) == ("ada", pb.ACCESS_ROLE_MEMBER)
    listed = await service.user("ada").ListKeys()
    assert list(listed.keys) == [created.key]
    assert created.secret not in str(listed)


async def test_a_key_is_revoked_for_ever_and_stays_in_the_list(service: Service) -> None:
    await service.add_users("ada")
    ada = service.user("ada")
    first, second = [(await ada.CreateKey(name=name)).key for name in ("one", "two")]
    revoked = (await ada.RevokeKey(key_id=first.key_id)).key
    assert revoked.revoked.ToMilliseconds() == service.clock.now_ms
    service.clock.advance(60)
    assert (await ada.RevokeKey(key_id=first.key_id)).key == revoked
    await ada.RevokeKey(key_id=second.prefix)
    assert list((await ada.ListKeys()).keys) == []
    assert len((await ada.ListKeys(revoked=True)).keys) == 2


async def test_keys_are_listed_newest_first_in_pages(service: Service) -> None:
    await service.add_users("ada", "bob")
    created: list[str] = []
    for number in range(5):
        service.clock.advance(number % 2)  # some at the same time
        created.append((await service.add_key("ada" if number else "bob")).key.key_id)
    found: list[pb.ApiKey] = []
    token = ""
    while True:
        page = await service.admin.ListKeys(page_size=2, page_token=token)
        found += page.keys
        token = page.next_page_token
        if not token:
            break
    assert sorted(names(found, "key_id")) == sorted(created)
    times = [key.created.ToMilliseconds() for key in found]
    assert times == sorted(times, reverse=True)
    assert names((await service.admin.ListKeys(user="bob")).keys, "user") == ["bob"]


async def test_an_admins_key_cannot_be_limited_to_models(service: Service) -> None:
    await service.add_users()
    with pytest.raises(InvalidArgument, match="role member") as caught:
        await service.add_key("root", role=ADMIN, models=["qwen*"])
    assert caught.value.field == "models"
    assert (await service.add_key("root", models=["qwen*"])).key.models == ["qwen*"]


async def test_a_client_manages_its_own_keys_only(service: Service) -> None:
    await service.add_users("ada", "bob")
    of_bob = (await service.add_key("bob")).key
    ada = service.user("ada")
    with pytest.raises(PermissionDenied):
        await ada.CreateKey(name="k", user="bob")
    with pytest.raises(UserNotFound):
        await ada.ListKeys(user="bob")
    for key_id in (of_bob.key_id, of_bob.prefix, "k_unknown"):
        with pytest.raises(KeyNotFound, match="there is no such key"):
            await ada.RevokeKey(key_id=key_id)
    assert list((await ada.ListKeys()).keys) == []


async def test_a_role_is_never_more_than_that_of_user_and_caller(service: Service) -> None:
    await service.add_users("ada")
    await service.add_users("eve", role=ADMIN)
    with pytest.raises(PermissionDenied, match="role may not be more"):
        await service.admin.CreateKey(name="k", user="ada", role=ADMIN)
    with pytest.raises(PermissionDenied, match="role may not be more"):
        await service.user("eve").CreateKey(name="k", role=ADMIN)
    created = await service.user("eve", admin=True).CreateKey(name="k", role=ADMIN)
    assert created.key.role == ADMIN


async def test_a_limited_key_creates_no_wider_key(service: Service) -> None:
    await service.add_users("ada")
    expires = in_s(service, 60)
    limited = (await service.add_key("ada", models=["qwen*"], expires=expires)).key
    caller = service.user("ada", key_id=limited.key_id)
    wider: list[dict[str, Any]] = [
        {"models": [], "expires": expires},
        {"models": ["llama"], "expires": expires},
        {"models": ["qwen2"]},
        {"models": ["qwen2"], "expires": in_s(service, 61)},
    ]
    for fields in wider:
        with pytest.raises(PermissionDenied):
            await caller.CreateKey(name="k", **fields)
    await caller.CreateKey(name="k", models=["qwen2"], expires=expires)


async def test_a_key_expires_in_the_future(service: Service) -> None:
    await service.add_users("ada")
    with pytest.raises(InvalidArgument, match="expires must be in the future"):
        await service.user("ada").CreateKey(name="k", expires=in_s(service, 0))


async def test_a_user_has_a_bounded_number_of_working_keys(sqlite_service: Service) -> None:
    service = sqlite_service
    await service.add_users("ada")
    copies = (
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <"
        f" {MAX_KEYS_PER_USER - 1}) INSERT INTO keys SELECT 'k_' || i, name, 'mm_' || i,"
        " CAST(i AS BLOB), user_name, role, models, created_ms, expires_ms, last_used_ms,"
        " revoked_ms FROM keys, n"
    )
    key = (await service.add_key("ada")).key
    async with service.access.database.transactions.write() as session:
        await session.fetch(copies)
    with pytest.raises(IllegalState, match="revoke some first"):
        await service.add_key("ada")
    await service.admin.RevokeKey(key_id=key.key_id)
    await service.add_key("ada")


async def test_only_the_hash_of_a_key_is_stored(service: Service) -> None:
    await service.add_users("ada")
    created = await service.add_key("ada")
    async with service.access.database.transactions.write() as session:
        [row] = await session.fetch("SELECT * FROM keys")
    assert bytes(row["sha256"]) == hashlib.sha256(created.secret.encode()).digest()
    assert created.secret not in repr([row[name] for name in COLUMNS])


async def test_credentials_that_a_gateway_still_believes_change_nothing(service: Service) -> None:
    """As long as a gateway has not learned of a revoked key or a disabled user."""
    await service.add_users("ada")
    key_id = (await service.add_key("ada")).key.key_id
    by_key = service.user("ada", key_id=key_id)
    await by_key.CreateKey(name="k")
    await service.admin.RevokeKey(key_id=key_id)
    with pytest.raises(Unauthenticated):
        await by_key.CreateKey(name="k")
    await service.admin.UpdateUser(name="ada", state=pb.USER_STATE_DISABLED)
    for caller in (service.user("ada"), service.user("ada", admin=True)):
        with pytest.raises(Unauthenticated):
            await caller.CreateKey(name="k", user="ada")
    with pytest.raises(Unauthenticated):
        await service.user("ada", admin=True).CreateUser(name="eve", password="some password")
