"""Delivers entries for the audit log to the access service, where one runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Generic, Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_fixed

from mlxmesh.access.v1 import policy_pb2 as pb
from mlxmesh.access.v1.policy_pb2_grpc import PolicyServiceStub
from mlxmesh_shared.any_instance import AnyInstance
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.channels import ChannelPool
from mlxmesh_shared.timestamps import to_time

BATCH = 200
INTERVAL_S = 2.0
RETRY_S = 10.0
TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """Who did what to what, without secrets."""

    time_ms: int
    actor: str
    action: str
    target: str
    details: str = ""

    @property
    def identity(self) -> object:
        """What distinguishes it from others; the id of its request is made of its text."""
        return asdict(self)


E = TypeVar("E", bound=AuditEntry)


class Outbox(Protocol[E]):
    """Entries that wait until an access service has recorded them."""

    async def audit_entries(self, limit: int) -> Sequence[E]:
        """The oldest entries, the oldest first. Raises: MeshError."""
        ...

    async def audit_delivered(self, batch: Sequence[E]) -> None:
        """Removes entries that were recorded. Raises: MeshError."""
        ...


class AuditDelivery(Generic[E]):
    """Has the entries of an outbox recorded, once each."""

    def __init__(
        self,
        outbox: Outbox[E],
        registry: Registry,
        channels: ChannelPool,
        *,
        source: str,
        retry_s: float = RETRY_S,
    ) -> None:
        """channels: to access services; the caller closes them.
        source: who delivers, as the ids of its requests begin.
        """
        self._outbox = outbox
        self._access = AnyInstance(registry, channels, "access")
        self._source = source
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(MeshError),
            wait=wait_fixed(retry_s),
            before_sleep=_log_failure,
        )

    async def run(self) -> None:
        """Delivers until it is cancelled; what fails is tried again later."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._access.follow())
            tasks.create_task(self._deliver_all())

    async def _deliver_all(self) -> None:
        while True:
            await self._access.registered()
            batch: Sequence[E] = await self._retrying(self._outbox.audit_entries, BATCH)
            # One by one: another process may send some of them, and each is recorded once.
            for entry in batch:
                await self._retrying(self._record, audit_request(self._source, entry))
            if batch:
                await self._retrying(self._outbox.audit_delivered, batch)
            await asyncio.sleep(0 if len(batch) == BATCH else INTERVAL_S)

    async def _record(self, request: pb.RecordAuditEntriesRequest) -> None:
        await self._access.registered()
        await self._access.call(
            lambda channel: PolicyServiceStub(channel).RecordAuditEntries(
                request, timeout=TIMEOUT_S
            )
        )


def audit_request(source: str, entry: AuditEntry) -> pb.RecordAuditEntriesRequest:
    """The request that records an entry, with an id that is the same for the same entry."""
    said = repr([entry.identity])
    return pb.RecordAuditEntriesRequest(
        batch_id=f"{source}-{sha256(said.encode()).hexdigest()[:40]}",
        entries=[
            pb.AuditReport(
                time=to_time(entry.time_ms),
                actor=entry.actor[:256],
                action=entry.action,
                target=entry.target[:256],
                details=entry.details[:1024],
            )
        ],
    )


def _log_failure(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    _log.info("entries of the audit log wait: %s", error)
