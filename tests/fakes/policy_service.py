"""The access service as gateways see it: policies, slices of quotas and usage, in memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from hashlib import sha256
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from mlxmesh.access.v1 import access_pb2 as a
from mlxmesh.access.v1 import policy_pb2 as p
from mlxmesh.access.v1.policy_pb2_grpc import (
    PolicyServiceServicer,
    add_PolicyServiceServicer_to_server,
)
from mlxmesh_gateway.access.policies import PolicyChange
from mlxmesh_shared.errors import MeshError, ServiceUnavailable
from mlxmesh_shared.rpc.server import MeshServer

_ACCESS: Any = a.DESCRIPTOR.services_by_name["AccessService"]
SERVICES = [
    "mlxmesh.access.v1.AccessService",
    "mlxmesh.access.v1.PolicyService",
]


class FakePolicyService(PolicyServiceServicer):
    """What a test does to it, its watchers see; a method that has an error raises it."""

    def __init__(self) -> None:
        self.errors: dict[str, MeshError] = {}
        """By method, until a test removes it."""
        self.calls: Counter[str] = Counter()
        self.revision = 1
        self.required = False
        self.jwks_json = ""
        self.keys: dict[str, p.KeyPolicy] = {}
        self.users: dict[str, p.UserPolicy] = {}
        self.quotas: dict[str, p.QuotaPolicy] = {}
        self.batches: dict[str, p.ReportUsageRequest] = {}
        self.repeated = 0
        self.lost_answers = 0
        """So many next reports are recorded, and their answers lost."""
        self.spent: Counter[tuple[str, int]] = Counter()
        """By subject and limit, what gateways have reported."""
        self.slice_tokens = 100
        self.left: dict[tuple[str, int], int] = {}
        """By subject and limit, what may still be leased; without an entry, everything."""
        self.valid_ms = 10_000
        self.metadata: list[dict[str, str | bytes]] = []
        """Of the calls of AccessService."""
        self.hold_changes = False
        """Whether watchers do not hear of changes."""
        self._changed = asyncio.Condition()
        self._log: list[p.WatchPoliciesResponse] = []

    async def add_user(self, name: str, *, admin: bool = False, team: str = "") -> None:
        """Creates or changes an active user."""
        role = a.ACCESS_ROLE_ADMIN if admin else a.ACCESS_ROLE_MEMBER
        self.users[name] = p.UserPolicy(name=name, role=role, team=team)
        self.required = True
        await self.change(users=[self.users[name]])

    async def add_key(
        self, secret: str, *, user: str = "ada", admin: bool = False, models: tuple[str, ...] = ()
    ) -> str:
        """Creates a key; returns its id."""
        key_id = f"k_{len(self.keys) + 1}"
        role = a.ACCESS_ROLE_ADMIN if admin else a.ACCESS_ROLE_MEMBER
        digest = sha256(secret.encode()).digest()
        self.keys[key_id] = p.KeyPolicy(
            key_id=key_id, sha256=digest, user=user, role=role, models=models
        )
        await self.change(keys=[self.keys[key_id]])
        return key_id

    async def revoke(self, key_id: str) -> None:
        del self.keys[key_id]
        await self.change(removed_key_ids=[key_id])

    async def set_quota(self, subject: a.QuotaSubject, **limits: int) -> None:
        """Sets a quota; without limits it is removed."""
        quota = p.QuotaPolicy(subject=subject, limits=a.QuotaLimits(**limits))
        self.quotas[str(subject)] = quota
        await self.change(quotas=[quota])

    async def change(self, **fields: Any) -> None:
        """Tells the watchers of a change."""
        async with self._changed:
            self.revision += 1
            self._log.append(
                p.WatchPoliciesResponse(
                    revision=self.revision, authentication_required=self.required, **fields
                )
            )
            self._changed.notify_all()

    def whole(self) -> p.WatchPoliciesResponse:
        return p.WatchPoliciesResponse(
            revision=self.revision,
            whole=True,
            keys=self.keys.values(),
            users=self.users.values(),
            quotas=self.quotas.values(),
            jwks_json=self.jwks_json,
            authentication_required=self.required,
        )

    def usage(self) -> list[p.UsageRecord]:
        """What was reported, each batch once."""
        return [record for batch in self.batches.values() for record in batch.records]

    def _enter(self, method: str) -> None:
        self.calls[method] += 1
        if method in self.errors:
            raise self.errors[method]

    async def WatchPolicies(
        self, request: p.WatchPoliciesRequest, context: Any
    ) -> AsyncIterator[p.WatchPoliciesResponse]:
        self._enter("WatchPolicies")
        seen = len(self._log)
        yield self.whole()
        while True:
            async with self._changed:
                while len(self._log) == seen or self.hold_changes:
                    await self._changed.wait()
                news, seen = self._log[seen:], len(self._log)
            for change in news:
                yield change

    async def release_changes(self) -> None:
        """Watchers hear of what was held."""
        async with self._changed:
            self.hold_changes = False
            self._changed.notify_all()

    async def GetRevision(
        self, request: p.GetRevisionRequest, context: Any
    ) -> p.GetRevisionResponse:
        self._enter("GetRevision")
        return p.GetRevisionResponse(revision=self.revision)

    async def LeaseQuotas(
        self, request: p.LeaseQuotasRequest, context: Any
    ) -> p.LeaseQuotasResponse:
        self._enter("LeaseQuotas")
        return p.LeaseQuotasResponse(grants=[self._grant(one) for one in request.slices])

    def _grant(self, one: p.SliceRequest) -> p.SliceGrant:
        place = str(one.subject).strip(), int(one.limit)
        if one.limit == p.QUOTA_LIMIT_CONCURRENT_GENERATIONS:
            granted = min(one.wanted, self.left.get(place, one.wanted))
            return p.SliceGrant(granted=granted, valid_ms=self.valid_ms)
        self.spent[place] += one.spent
        if place in self.left:
            self.left[place] = max(0, self.left[place] - one.spent)
        granted = min(one.wanted, self.slice_tokens, self.left.get(place, one.wanted))
        if not granted:
            return p.SliceGrant(retry_after_ms=5_000)
        return p.SliceGrant(granted=granted, valid_ms=self.valid_ms)

    async def RecordAuditEntries(
        self, request: p.RecordAuditEntriesRequest, context: Any
    ) -> p.RecordAuditEntriesResponse:
        self._enter("RecordAuditEntries")
        return p.RecordAuditEntriesResponse()

    async def ReportUsage(
        self, request: p.ReportUsageRequest, context: Any
    ) -> p.ReportUsageResponse:
        self._enter("ReportUsage")
        repeated = request.batch_id in self.batches
        self.repeated += repeated
        self.batches.setdefault(request.batch_id, request)
        if self.lost_answers:
            self.lost_answers -= 1
            raise ServiceUnavailable("the answer is lost")
        return p.ReportUsageResponse(repeated=repeated)

    async def answer(self, method: str, request: Any, context: Any) -> Any:
        """Answers a method of AccessService with an empty response; creates users."""
        self.metadata.append(dict(context.invocation_metadata()))
        self._enter(method)
        if isinstance(request, a.CreateUserRequest):
            await self.add_user(request.name, admin=request.role == a.ACCESS_ROLE_ADMIN)
        return GetMessageClass(_ACCESS.methods_by_name[method].output_type)()


class _AccessMethods(grpc.GenericRpcHandler):
    def __init__(self, service: FakePolicyService) -> None:
        self._handlers = {
            f"/{_ACCESS.full_name}/{name}": self._handler(service, name, method)
            for name, method in _ACCESS.methods_by_name.items()
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)

    def _handler(self, service: FakePolicyService, name: str, method: Any) -> Any:
        async def handle(request: Any, context: Any) -> Any:
            return await service.answer(name, request, context)

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )


def policy_server(servicer: FakePolicyService) -> MeshServer:
    """A server of a fake access service; the caller starts and stops it."""
    return MeshServer(
        services=[
            (add_PolicyServiceServicer_to_server, servicer),
        ],
        generic_handlers=[_AccessMethods(servicer)],
        service_names=SERVICES,
    )


class NoPolicySource:
    """Satisfies PolicySource: there is no access service."""

    def is_registered(self) -> bool:
        return False

    async def watch(self) -> AsyncGenerator[PolicyChange]:
        raise ServiceUnavailable("away")
        yield

    async def revision(self) -> int:
        raise ServiceUnavailable("away")
