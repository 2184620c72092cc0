"""What gateways watch: all policies, then each change, also those of another access service."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1 import policy_pb2
from tests.integration.access.conftest import PASSWORD, Service, Services, names

ADMIN = pb.ACCESS_ROLE_ADMIN
MEMBER = pb.ACCESS_ROLE_MEMBER
DISABLED = pb.USER_STATE_DISABLED
ACTIVE = pb.USER_STATE_ACTIVE


@asynccontextmanager
async def watching(service: Service) -> AsyncGenerator[AsyncIterator[Any]]:
    call = service.policies.WatchPolicies(policy_pb2.WatchPoliciesRequest())
    try:
        yield aiter(call)
    finally:
        call.cancel()


async def following(changes: AsyncIterator[Any]) -> policy_pb2.WatchPoliciesResponse:
    async with asyncio.timeout(20):
        return await anext(changes)


async def test_without_users_nothing_must_authenticate(service: Service) -> None:
    async with watching(service) as changes:
        first = await following(changes)
        assert first == policy_pb2.WatchPoliciesResponse(whole=True, jwks_json='{"keys":[]}')
        await service.add_users()
        second = await following(changes)
    assert (second.whole, second.authentication_required) == (False, True)
    assert names(second.users) == ["root"]


async def test_the_first_message_has_everything(service: Service) -> None:
    await service.add_users("ada", team="blue")
    expires = Timestamp(seconds=1_900_000_000)
    created = await service.add_key("ada", models=["qwen*"], expires=expires)
    limits = pb.QuotaLimits(tokens_per_minute=5)
    await service.admin.SetQuota(subject=pb.QuotaSubject(team="blue"), limits=limits)
    async with watching(service) as changes:
        first = await following(changes)
    revision = await service.policies.GetRevision(policy_pb2.GetRevisionRequest())
    assert (first.whole, first.revision) == (True, revision.revision)
    assert list(first.keys) == [
        policy_pb2.KeyPolicy(
            key_id=created.key.key_id,
            sha256=hashlib.sha256(created.secret.encode()).digest(),
            user="ada",
            role=MEMBER,
            models=["qwen*"],
            expires=expires,
        )
    ]
    assert [(user.name, user.role, user.team) for user in first.users] == [
        ("ada", MEMBER, "blue"), ("root", ADMIN, ""),
    ]  # fmt: skip
    assert list(first.quotas) == [
        policy_pb2.QuotaPolicy(subject=pb.QuotaSubject(team="blue"), limits=limits)
    ]


async def test_each_change_is_told(service: Service) -> None:
    await service.add_users("ada")
    async with watching(service) as changes:
        revision = (await following(changes)).revision
        key_id = (await service.add_key("ada")).key.key_id
        change = await following(changes)
        assert (names(change.keys, "key_id"), list(change.users)) == ([key_id], [])
        assert change.revision > revision

        await service.admin.UpdateUser(name="ada", team="red")
        change = await following(changes)
        assert ([user.team for user in change.users], list(change.keys)) == (["red"], [])

        subject = pb.QuotaSubject(user="ada")
        await service.admin.SetQuota(subject=subject, limits=pb.QuotaLimits(tokens_per_day=1))
        assert len((await following(changes)).quotas) == 1
        await service.admin.DeleteQuota(subject=subject)
        removed = (await following(changes)).quotas
        assert list(removed) == [policy_pb2.QuotaPolicy(subject=subject)]
        assert not removed[0].HasField("limits")

        await service.admin.RevokeKey(key_id=key_id)
        assert list((await following(changes)).removed_key_ids) == [key_id]


async def test_a_disabled_user_and_its_keys_are_removed(service: Service) -> None:
    await service.add_users("ada")
    key_id = (await service.add_key("ada")).key.key_id
    async with watching(service) as changes:
        await following(changes)
        await service.admin.UpdateUser(name="ada", state=DISABLED)
        change = await following(changes)
        assert (list(change.removed_users), list(change.removed_key_ids)) == (["ada"], [key_id])
        service.clock.advance(60)
        await service.admin.UpdateUser(name="ada", state=ACTIVE)
        change = await following(changes)
        assert (names(change.users), names(change.keys, "key_id")) == (["ada"], [key_id])
        # Its tokens from before are refused for ever.
        valid_from_ms = change.users[0].tokens_valid_from.ToMilliseconds()
        assert valid_from_ms == service.clock.now_ms - 60_000
        await service.admin.DeleteUser(name="ada")
        change = await following(changes)
        assert (list(change.removed_users), list(change.removed_key_ids)) == (["ada"], [key_id])


async def test_a_key_is_never_more_than_its_user(service: Service) -> None:
    await service.add_users("ada", role=ADMIN)
    await service.add_key("ada", role=ADMIN)
    async with watching(service) as changes:
        assert (await following(changes)).keys[0].role == ADMIN
        await service.admin.UpdateUser(name="ada", role=MEMBER)
        assert (await following(changes)).keys[0].role == MEMBER


async def test_a_new_password_refuses_older_tokens(service: Service) -> None:
    await service.add_users("ada")
    async with watching(service) as changes:
        await following(changes)
        service.clock.advance(5)
        await service.admin.UpdateUser(name="ada", password="another password")
        [user] = (await following(changes)).users
    assert user.tokens_valid_from.ToMilliseconds() == service.clock.now_ms


async def test_pending_users_and_expired_keys_are_not_told(services: Services) -> None:
    service, _ = await services.start(sign_up=True)
    await service.add_users("ada")
    expires = Timestamp()
    expires.FromMilliseconds(service.clock.now_ms + 1000)
    await service.add_key("ada", expires=expires)
    await service.nobody.SignUp(name="eve", password=PASSWORD)
    service.clock.advance(1)
    async with watching(service) as changes:
        first = await following(changes)
    assert (names(first.users), list(first.keys)) == (["ada", "root"], [])


async def test_two_services_on_one_database_see_each_others_changes(services: Services) -> None:
    one, _ = await services.start()
    other, _ = await services.start()
    others = asyncio.Event()
    others.set()
    polling = asyncio.create_task(other.access.database.poll_changes(0.05, others))
    try:
        async with watching(other) as changes:
            await following(changes)
            await one.add_users()
            assert names((await following(changes)).users) == ["root"]
    finally:
        polling.cancel()


async def test_many_watchers_get_each_change(service: Service) -> None:
    await service.add_users()
    calls = [service.policies.WatchPolicies(policy_pb2.WatchPoliciesRequest()) for _ in range(20)]
    watchers = [aiter(call) for call in calls]
    await asyncio.gather(*(following(each) for each in watchers))
    await service.add_users("ada")
    told = await asyncio.gather(*(following(each) for each in watchers))
    assert [names(change.users) for change in told] == [["ada"]] * 20
    for call in calls:
        call.cancel()


@pytest.mark.parametrize("what", ["usage", "slices"])
async def test_what_is_no_policy_changes_no_revision(service: Service, what: str) -> None:
    await service.add_users("ada")
    subject = pb.QuotaSubject(user="ada")
    await service.admin.SetQuota(subject=subject, limits=pb.QuotaLimits(tokens_per_minute=1))
    before = await service.access.database.revision()
    if what == "usage":
        await service.policies.ReportUsage(
            policy_pb2.ReportUsageRequest(
                batch_id="b",
                records=[
                    policy_pb2.UsageRecord(
                        hour=Timestamp(seconds=1_800_000_000), amounts=pb.UsageAmounts(requests=1)
                    )
                ],
            )
        )
    else:
        slices = [
            policy_pb2.SliceRequest(
                subject=subject, limit=policy_pb2.QUOTA_LIMIT_TOKENS_PER_MINUTE, wanted=1
            )
        ]
        await service.policies.LeaseQuotas(
            policy_pb2.LeaseQuotasRequest(gateway_id="g", slices=slices)
        )
    assert await service.access.database.revision() == before
