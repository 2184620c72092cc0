"""Calls to whichever instance of the access service answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, TypeVar

from google.protobuf.message import Message
from grpc import aio

from mlxmesh.access.v1 import policy_pb2 as pb
from mlxmesh_gateway.access import convert
from mlxmesh_gateway.access.policies import Limit, PolicyChange, Subject
from mlxmesh_gateway.access.quotas import convert as quota_convert
from mlxmesh_gateway.access.quotas.account import Ask, Grant
from mlxmesh_gateway.forwarding.backends import Backends
from mlxmesh_gateway.forwarding.statuses import is_gone
from mlxmesh_shared.errors import MeshError, ServiceUnavailable

ACCESS = "access"
CALL_TIMEOUT_S = 2.0
WATCH_TIMEOUT_S = 24 * 3600.0
"""A watch is repeated after this time."""
_SERVICE = "/mlxmesh.access.v1.PolicyService/"

M = TypeVar("M", bound=Message)


class PolicySource(Protocol):
    """Where policies come from."""

    def is_registered(self) -> bool:
        """Whether an access service was ever found in the registry."""
        ...

    def watch(self) -> AsyncGenerator[PolicyChange]:
        """All policies, then each change. Raises: MeshError."""
        ...

    async def revision(self) -> int:
        """The current revision. Raises: MeshError."""
        ...


class AccessLink:
    """Satisfies PolicySource, by the gateway's connections to its backends."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    def is_registered(self) -> bool:
        return self._backends.has(ACCESS)

    async def watch(self) -> AsyncGenerator[PolicyChange]:
        endpoint = self._backends.by_preference(ACCESS)[0]
        async with endpoint.busy() as permit:
            request = pb.WatchPoliciesRequest().SerializeToString()
            call = endpoint.stream(_SERVICE + "WatchPolicies")(request, timeout=WATCH_TIMEOUT_S)
            try:
                while (message := await call.read()) is not aio.EOF:
                    permit.answered()
                    yield convert.policy_change(pb.WatchPoliciesResponse.FromString(message))
            finally:
                call.cancel()

    async def revision(self) -> int:
        response = await self.call("GetRevision", pb.GetRevisionRequest(), pb.GetRevisionResponse)
        return response.revision

    async def lease_quotas(
        self, gateway_id: str, asks: Sequence[tuple[Subject, Limit, Ask]]
    ) -> Sequence[Grant]:
        """The slices that are granted, in the same order. Raises: MeshError."""
        request = quota_convert.lease_request(gateway_id, asks)
        return quota_convert.grants(await self.call("LeaseQuotas", request, pb.LeaseQuotasResponse))

    async def report_usage(self, encoded: bytes) -> None:
        """Reports a batch. Raises: MeshError."""
        await self._call("ReportUsage", encoded)

    async def call(self, method: str, request: Message, response_class: type[M]) -> M:
        """The response of a method of PolicyService. Raises: MeshError."""
        return response_class.FromString(await self._call(method, request.SerializeToString()))

    async def _call(self, method: str, encoded: bytes) -> bytes:
        """The response of the first instance that is there."""
        error: MeshError = ServiceUnavailable("no access service is running")
        for endpoint in self._backends.by_preference(ACCESS):
            try:
                async with endpoint.busy():
                    unary = endpoint.unary(_SERVICE + method)
                    return await unary(encoded, timeout=CALL_TIMEOUT_S)
            except MeshError as failed:
                error = failed
                if not is_gone(failed):
                    break
        raise error
