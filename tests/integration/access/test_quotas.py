"""Quotas and their slices, in both kinds of database."""

import asyncio
import random

import pytest

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1 import policy_pb2
from mlxmesh_shared.errors import KeyNotFound, QuotaNotFound, UserNotFound
from tests.integration.access.conftest import Service, Services

TOKENS = policy_pb2.QUOTA_LIMIT_TOKENS_PER_MINUTE
REQUESTS = policy_pb2.QUOTA_LIMIT_REQUESTS_PER_MINUTE
SHARES = policy_pb2.QUOTA_LIMIT_CONCURRENT_GENERATIONS
ADA = pb.QuotaSubject(user="ada")
LARGE = 10**15


async def lease(
    service: Service,
    gateway: str,
    *,
    spent: int = 0,
    wanted: int = LARGE,
    subject: pb.QuotaSubject = ADA,
    limit: policy_pb2.QuotaLimit.ValueType = TOKENS,
) -> policy_pb2.SliceGrant:
    slices = [policy_pb2.SliceRequest(subject=subject, limit=limit, spent=spent, wanted=wanted)]
    request = policy_pb2.LeaseQuotasRequest(gateway_id=gateway, slices=slices)
    [grant] = (await service.policies.LeaseQuotas(request)).grants
    return grant


async def used(service: Service, subject: pb.QuotaSubject = ADA) -> pb.QuotaUse:
    [quota] = (await service.admin.ListQuotas(subject=subject)).quotas
    return quota.used


async def test_a_quota_replaces_the_previous_one(service: Service) -> None:
    await service.add_users("ada")
    await service.admin.SetQuota(subject=ADA, limits=pb.QuotaLimits(requests_per_minute=3))
    limits = pb.QuotaLimits(tokens_per_minute=1000, concurrent_generations=2)
    quota = (await service.admin.SetQuota(subject=ADA, limits=limits)).quota
    assert quota.limits == limits
    assert not quota.limits.HasField("requests_per_minute")
    assert list((await service.admin.ListQuotas()).quotas) == [quota]


async def test_a_key_or_user_must_exist_and_a_team_need_not(service: Service) -> None:
    await service.add_users("ada")
    key = (await service.add_key("ada")).key
    limits = pb.QuotaLimits(tokens_per_day=1)
    with pytest.raises(UserNotFound) as user:
        await service.admin.SetQuota(subject=pb.QuotaSubject(user="bob"), limits=limits)
    assert user.value.field == "subject.user"
    for key_id in ("k_unknown", key.prefix):
        with pytest.raises(KeyNotFound) as unknown:
            await service.admin.SetQuota(subject=pb.QuotaSubject(key_id=key_id), limits=limits)
        assert unknown.value.field == "subject.key_id"
    await service.admin.SetQuota(subject=pb.QuotaSubject(key_id=key.key_id), limits=limits)
    await service.admin.SetQuota(subject=pb.QuotaSubject(team="any"), limits=limits)


async def test_a_removed_quota_is_gone(service: Service) -> None:
    await service.add_users("ada")
    await service.admin.SetQuota(subject=ADA, limits=pb.QuotaLimits(tokens_per_minute=100))
    await lease(service, "g", spent=5)
    await service.admin.DeleteQuota(subject=ADA)
    with pytest.raises(QuotaNotFound):
        await service.admin.DeleteQuota(subject=ADA)
    with pytest.raises(QuotaNotFound):
        await service.admin.ListQuotas(subject=ADA)
    assert (await lease(service, "g", wanted=7)).granted == 7
    await service.admin.SetQuota(subject=ADA, limits=pb.QuotaLimits(tokens_per_minute=100))
    assert (await used(service)).tokens_this_minute == 0


async def test_a_client_sees_the_quotas_that_apply_to_it(service: Service) -> None:
    await service.add_users("ada", team="blue")
    await service.add_users("bob", team="red")
    keys = {name: (await service.add_key(name)).key.key_id for name in ("ada", "bob")}
    own = [
        pb.QuotaSubject(key_id=keys["ada"]), pb.QuotaSubject(team="blue"), ADA,
    ]  # fmt: skip
    others = [
        pb.QuotaSubject(key_id=keys["bob"]), pb.QuotaSubject(team="red"),
        pb.QuotaSubject(user="bob"),
    ]  # fmt: skip
    for subject in own + others:
        await service.admin.SetQuota(subject=subject, limits=pb.QuotaLimits(tokens_per_day=9))
    ada = service.user("ada")
    assert [quota.subject for quota in (await ada.ListQuotas()).quotas] == own
    assert len((await service.admin.ListQuotas()).quotas) == 6
    for subject in own:
        assert len((await ada.ListQuotas(subject=subject)).quotas) == 1
    for subject in others:
        with pytest.raises(QuotaNotFound):
            await ada.ListQuotas(subject=subject)
    assert list((await service.nobody.ListQuotas()).quotas) == []


@pytest.mark.parametrize("caller", ["admin", "client"])
async def test_quotas_are_listed_in_pages(service: Service, caller: str) -> None:
    await service.add_users("ada")
    subjects = [pb.QuotaSubject(key_id=(await service.add_key("ada")).key.key_id) for _ in range(4)]
    for subject in [*subjects, ADA]:
        await service.admin.SetQuota(subject=subject, limits=pb.QuotaLimits(tokens_per_day=9))
    client = service.admin if caller == "admin" else service.user("ada")
    found: list[pb.QuotaSubject] = []
    token = ""
    while True:
        page = await client.ListQuotas(page_size=2, page_token=token)
        found += [quota.subject for quota in page.quotas]
        token = page.next_page_token
        if not token:
            break
    assert found == [*sorted(subjects, key=lambda one: one.key_id), ADA]


async def test_what_is_used_is_what_gateways_reported_in_this_window(service: Service) -> None:
    await service.add_users("ada")
    limits = pb.QuotaLimits(
        requests_per_minute=10, tokens_per_minute=100, tokens_per_day=1000, tokens_per_month=9999
    )
    await service.admin.SetQuota(subject=ADA, limits=limits)
    for limit in (TOKENS, policy_pb2.QUOTA_LIMIT_TOKENS_PER_DAY):
        await lease(service, "g", spent=8, limit=limit)
    await lease(service, "g", spent=2, limit=REQUESTS)
    await lease(service, "h", spent=3, limit=policy_pb2.QUOTA_LIMIT_TOKENS_PER_MONTH)
    assert await used(service) == pb.QuotaUse(
        requests_this_minute=2, tokens_this_minute=8, tokens_this_day=8, tokens_this_month=3
    )
    service.clock.advance(60)
    assert await used(service) == pb.QuotaUse(tokens_this_day=8, tokens_this_month=3)


async def test_slices_are_granted_in_the_order_of_the_request(service: Service) -> None:
    await service.add_users("ada", "bob")
    bob = pb.QuotaSubject(user="bob")
    await service.admin.SetQuota(subject=ADA, limits=pb.QuotaLimits(tokens_per_minute=100))
    await service.admin.SetQuota(subject=bob, limits=pb.QuotaLimits(tokens_per_minute=2000))
    slices = [
        policy_pb2.SliceRequest(subject=subject, limit=limit, wanted=LARGE)
        for subject, limit in ((bob, TOKENS), (ADA, TOKENS), (ADA, REQUESTS), (bob, TOKENS))
    ]
    request = policy_pb2.LeaseQuotasRequest(gateway_id="g", slices=slices)
    grants = (await service.policies.LeaseQuotas(request)).grants
    assert [grant.granted for grant in grants] == [200, 10, LARGE, 200]


async def test_two_services_grant_one_limit(services: Services) -> None:
    """As two access services on one database do."""
    one, _ = await services.start()
    other, _ = await services.start()
    await one.add_users("ada")
    await one.admin.SetQuota(subject=ADA, limits=pb.QuotaLimits(tokens_per_minute=20))
    grants = [await lease((one, other)[number % 2], f"g{number}") for number in range(11)]
    assert [grant.granted for grant in grants] == [2] * 10 + [0]
    held = [await lease(one, f"h{number}") for number in range(3)]
    assert [grant.granted for grant in held] == [0, 0, 0]


async def test_slices_survive_a_restart(services: Services) -> None:
    service, stop = await services.start()
    await service.add_users("ada")
    await service.admin.SetQuota(subject=ADA, limits=pb.QuotaLimits(tokens_per_minute=20))
    for _ in range(9):
        await lease(service, "g", spent=2)  # 18 are spent and 2 held
    await stop()
    service, _ = await services.start()
    refused = await lease(service, "h")
    assert refused.granted == 0
    assert refused.retry_after_ms > 0
    assert (await used(service)).tokens_this_minute == 18


async def test_concurrent_gateways_never_exceed_a_limit(services: Services) -> None:
    """Three gateways spend all that they get, over two services, until nothing is left."""
    stands = [(await services.start())[0] for _ in range(2)]
    await stands[0].add_users("ada")
    await stands[0].admin.SetQuota(subject=ADA, limits=pb.QuotaLimits(tokens_per_minute=500))
    dice = random.Random(7)

    async def spend(gateway: str) -> int:
        total = spent = 0
        while True:
            grant = await lease(dice.choice(stands), gateway, spent=spent, wanted=LARGE)
            if not grant.granted:
                return total
            spent = dice.randint(1, grant.granted)
            total += spent

    async with asyncio.timeout(90):
        totals = await asyncio.gather(*(spend(f"g{number}") for number in range(3)))
    assert 450 <= sum(totals) <= 500


async def test_many_slices_in_one_request(service: Service) -> None:
    """1,024 at once, as many as the contract allows."""
    await service.add_users("ada")
    teams = [pb.QuotaSubject(team=f"t{number}") for number in range(1024)]
    await service.admin.SetQuota(subject=teams[0], limits=pb.QuotaLimits(tokens_per_minute=50))
    async with service.access.database.transactions.write() as session:
        await session.fetch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1023)"
            " INSERT INTO quotas SELECT 'team', 't' || i, 0, 50, 0, 0, 0 FROM n"
        )
    slices = [policy_pb2.SliceRequest(subject=team, limit=TOKENS, wanted=LARGE) for team in teams]
    request = policy_pb2.LeaseQuotasRequest(gateway_id="g", slices=slices)
    for _ in range(2):
        grants = (await service.policies.LeaseQuotas(request)).grants
        assert [grant.granted for grant in grants] == [5] * 1024
    returned = [policy_pb2.SliceRequest(subject=team, limit=TOKENS, spent=5) for team in teams]
    await service.policies.LeaseQuotas(
        policy_pb2.LeaseQuotasRequest(gateway_id="g", slices=returned)
    )
    assert (await used(service, teams[-1])).tokens_this_minute == 5


async def test_shares_of_concurrent_generations(service: Service) -> None:
    await service.add_users("ada")
    await service.admin.SetQuota(subject=ADA, limits=pb.QuotaLimits(concurrent_generations=4))
    assert (await lease(service, "g", wanted=4, limit=SHARES)).granted == 4
    assert (await lease(service, "h", wanted=4, limit=SHARES)).granted == 0
    assert (await lease(service, "g", spent=1, wanted=4, limit=SHARES)).granted == 2
    assert (await lease(service, "h", wanted=4, limit=SHARES)).granted == 2
