"""Calls to whichever instance of the access service answers."""

from collections.abc import Mapping

from mlxmesh.access.v1.policy_pb2_grpc import PolicyServiceStub
from mlxmesh_jobs.domain.ports import UsageBatch
from mlxmesh_jobs.usage import convert
from mlxmesh_jobs.usage.ledger import Spent, Subject
from mlxmesh_shared.any_instance import AnyInstance
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.channels import ChannelPool

ACCESS = "access"
TIMEOUT_S = 5.0


class AccessLink:
    """Satisfies AccessService."""

    def __init__(self, registry: Registry, channels: ChannelPool, instance_id: str) -> None:
        """channels: to access services; the caller closes them.
        instance_id: by which the access service tells apart who spends.
        """
        self._access = AnyInstance(registry, channels, ACCESS)
        self._instance_id = instance_id

    async def follow(self) -> None:
        """Follows the registry until it is cancelled."""
        await self._access.follow()

    async def registered(self) -> None:
        await self._access.registered()

    async def report(self, batch: UsageBatch) -> None:
        request = convert.to_report(batch)
        await self._access.call(
            lambda channel: PolicyServiceStub(channel).ReportUsage(request, timeout=TIMEOUT_S)
        )

    async def lease(self, used: Mapping[Subject, Spent]) -> Mapping[Subject, int]:
        found: dict[Subject, int] = {}
        subjects = [*used]
        for start in range(0, len(subjects), convert.MAX_SUBJECTS):
            part = subjects[start : start + convert.MAX_SUBJECTS]
            request = convert.to_lease(self._instance_id, {each: used[each] for each in part})
            response = await self._access.call(
                lambda channel, request=request: PolicyServiceStub(channel).LeaseQuotas(
                    request, timeout=TIMEOUT_S
                )
            )
            found |= convert.used_up(response, part)
        return found
