"""What is too old is removed, in both kinds of database."""

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.access.v1 import access_pb2 as pb
from mlxmesh.access.v1 import policy_pb2
from mlxmesh_access.clock import DAY_MS
from mlxmesh_access.maintenance import BATCH_RETENTION_MS
from tests.integration.access.conftest import Service, Services

DAY_S = DAY_MS // 1000


async def report(service: Service, batch: str) -> bool:
    hour = Timestamp()
    hour.FromMilliseconds(service.clock.now_ms)
    records = [policy_pb2.UsageRecord(hour=hour, amounts=pb.UsageAmounts(requests=1))]
    request = policy_pb2.ReportUsageRequest(batch_id=batch, records=records)
    return (await service.policies.ReportUsage(request)).repeated


async def requests(service: Service) -> int:
    start = Timestamp(seconds=1)
    [row] = (await service.admin.QueryUsage(**{"from": start})).rows
    return row.amounts.requests


async def count(service: Service, table: str) -> int:
    async with service.access.database.transactions.write() as session:
        [row] = await session.fetch(f"SELECT count(*) AS found FROM {table}")
    return row["found"]


async def test_usage_is_kept_for_its_retention(services: Services) -> None:
    service, _ = await services.start(usage_retention_days=40)
    await report(service, "old")
    service.clock.advance(39 * DAY_S)
    await report(service, "new")
    await service.access.maintenance.prune()
    assert await requests(service) == 2
    service.clock.advance(2 * DAY_S)
    await service.access.maintenance.prune()
    assert await requests(service) == 1


async def test_batches_are_recognized_for_their_retention(service: Service) -> None:
    await report(service, "b")
    service.clock.advance(BATCH_RETENTION_MS / 1000 - 1)
    await service.access.maintenance.prune()
    assert await report(service, "b")
    service.clock.advance(2)
    await service.access.maintenance.prune()
    assert await count(service, "usage_batches") == 0


async def test_slices_of_gateways_that_are_gone_are_removed(service: Service) -> None:
    await service.add_users("ada")
    subject = pb.QuotaSubject(user="ada")
    await service.admin.SetQuota(subject=subject, limits=pb.QuotaLimits(tokens_per_month=100))
    slices = [
        policy_pb2.SliceRequest(
            subject=subject, limit=policy_pb2.QUOTA_LIMIT_TOKENS_PER_MONTH, spent=9, wanted=1
        )
    ]
    request = policy_pb2.LeaseQuotasRequest(gateway_id="killed", slices=slices)
    await service.policies.LeaseQuotas(request)
    service.clock.advance(2 * DAY_S)
    await service.access.maintenance.prune()
    assert await count(service, "quota_slices") == 0
    [quota] = (await service.admin.ListQuotas()).quotas
    assert quota.used.tokens_this_month == 9
