"""Delivers entries for the audit log to the access service, where one runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from hashlib import sha256

from mlxmesh.access.v1 import policy_pb2 as pb
from mlxmesh.access.v1.policy_pb2_grpc import PolicyServiceStub
from mlxmesh_shared.any_instance import AnyInstance
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.channels import ChannelPool
from mlxmesh_shared.timestamps import to_time
from mlxmesh_tools.storage.audit_rows import Entry
from mlxmesh_tools.storage.store import ToolStore

BATCH = 200
INTERVAL_S = 2.0
RETRY_S = 10.0
TIMEOUT_S = 5.0
_log = logging.getLogger("mlxmesh.tools")


class AuditReporter:
    """Entries wait in the database until an access service has recorded them, once each."""

    def __init__(self, store: ToolStore, registry: Registry, channels: ChannelPool) -> None:
        """channels: to access services; the caller closes them."""
        self._store = store
        self._access = AnyInstance(registry, channels, "access")

    async def follow(self) -> None:
        """Follows the registry until it is cancelled."""
        await self._access.follow()

    async def run(self) -> None:
        """Delivers until it is cancelled; what fails is tried again later."""
        while True:
            await self._access.registered()
            try:
                delivered = await self.deliver()
            except MeshError as error:
                _log.info("entries of the audit log wait: %s", error.message)
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.sleep(0 if delivered == BATCH else INTERVAL_S)

    async def deliver(self) -> int:
        """Delivers the oldest entries; how many those were. Raises: MeshError."""
        entries = await self._store.audit_entries(BATCH)
        if entries:
            request = _request(entries)
            await self._access.call(
                lambda channel: PolicyServiceStub(channel).RecordAuditEntries(
                    request, timeout=TIMEOUT_S
                )
            )
            await self._store.delivered(entries[-1].number)
        return len(entries)


def _request(entries: Sequence[Entry]) -> pb.RecordAuditEntriesRequest:
    """With an id that is the same for the same entries, and for no others."""
    said = repr([(one.number, one.time_ms, one.actor, one.target, one.details) for one in entries])
    return pb.RecordAuditEntriesRequest(
        batch_id=f"tools-{sha256(said.encode()).hexdigest()[:40]}",
        entries=[
            pb.AuditReport(
                time=to_time(one.time_ms),
                actor=one.actor[:256],
                action=one.action,
                target=one.target[:256],
                details=one.details[:1024],
            )
            for one in entries
        ],
    )
