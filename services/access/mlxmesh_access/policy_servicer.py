"""PolicyService: what gateways need to decide by themselves, and where usage goes."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.access.v1 import policy_pb2 as pb
from mlxmesh.access.v1 import policy_pb2_grpc
from mlxmesh_access.audit import Audit
from mlxmesh_access.convert import from_audit_report
from mlxmesh_access.policies import convert
from mlxmesh_access.policies.feed import PolicyFeed
from mlxmesh_access.quotas.quotas import Quotas
from mlxmesh_access.usage import convert as usage_convert
from mlxmesh_access.usage.usage import Usage

_Context = ServicerContext[Any, Any]


class PolicyServicer(policy_pb2_grpc.PolicyServiceServicer):
    """Policies, slices and usage over gRPC; the contract documents each method."""

    def __init__(self, *, feed: PolicyFeed, quotas: Quotas, usage: Usage, audit: Audit) -> None:
        self._feed = feed
        self._quotas = quotas
        self._usage = usage
        self._audit = audit

    async def WatchPolicies(
        self, request: pb.WatchPoliciesRequest, context: _Context
    ) -> AsyncGenerator[pb.WatchPoliciesResponse]:
        async with aclosing(self._feed.watch()) as changes:
            async for change in changes:
                yield convert.to_change(change)

    async def GetRevision(
        self, request: pb.GetRevisionRequest, context: _Context
    ) -> pb.GetRevisionResponse:
        return pb.GetRevisionResponse(revision=await self._feed.revision())

    async def LeaseQuotas(
        self, request: pb.LeaseQuotasRequest, context: _Context
    ) -> pb.LeaseQuotasResponse:
        wanted = [
            convert.from_slice_request(one, request.gateway_id, f"slices[{index}]")
            for index, one in enumerate(request.slices)
        ]
        grants = await self._quotas.lease(request.gateway_id, wanted)
        return pb.LeaseQuotasResponse(grants=[convert.to_grant(grant) for grant in grants])

    async def ReportUsage(
        self, request: pb.ReportUsageRequest, context: _Context
    ) -> pb.ReportUsageResponse:
        records = [
            usage_convert.from_usage_record(record, f"records[{index}]")
            for index, record in enumerate(request.records)
        ]
        is_new = await self._usage.record(request.batch_id, records)
        return pb.ReportUsageResponse(repeated=not is_new)

    async def RecordAuditEntries(
        self, request: pb.RecordAuditEntriesRequest, context: _Context
    ) -> pb.RecordAuditEntriesResponse:
        entries = [
            from_audit_report(entry, f"entries[{index}].time")
            for index, entry in enumerate(request.entries)
        ]
        is_new = await self._audit.record(request.batch_id, entries)
        return pb.RecordAuditEntriesResponse(repeated=not is_new)
