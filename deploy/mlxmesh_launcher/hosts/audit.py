"""Entries for the audit log of the access service, which wait on disk until they are delivered."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from mlxmesh.access.v1 import policy_pb2 as pb
from mlxmesh.access.v1.policy_pb2_grpc import PolicyServiceStub
from mlxmesh_shared.any_instance import AnyInstance
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.host.atomic_file import write_atomically
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.channels import ChannelPool, open_channel
from mlxmesh_shared.timestamps import to_time
from mlxmesh_shared.tls import CertificateFiles, CertificateSource

FILE_NAME = "audit.json"
MAX_ENTRIES = 1000
"""The oldest beyond this are removed: a mesh without users has no audit log."""
BATCH = 200
INTERVAL_S = 2.0
RETRY_S = 10.0
TIMEOUT_S = 5.0
_ROLE = "tools"
"""The service whose certificate may add entries; only the first host has it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """Who did what to what, without secrets."""

    time_ms: int
    actor: str
    action: str
    target: str
    details: str = ""


class AuditOutbox:
    """The entries that wait, in a file."""

    def __init__(self, folder: Path) -> None:
        """A file that cannot be read is replaced with the next entry."""
        self._path = folder / FILE_NAME
        self._entries = _read(self._path)
        self.added = asyncio.Event()

    @property
    def entries(self) -> Sequence[AuditEntry]:
        """The oldest first."""
        return self._entries

    def add(self, entry: AuditEntry) -> None:
        """Stores an entry. A full disk must not stop what it reports, so that is only logged."""
        self._store([*self._entries, entry][-MAX_ENTRIES:])
        self.added.set()

    def delivered(self, batch: Sequence[AuditEntry]) -> None:
        """Removes entries that were recorded."""
        done = set(map(id, batch))
        self._store([each for each in self._entries if id(each) not in done])

    def _store(self, entries: list[AuditEntry]) -> None:
        self._entries = entries
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            content = json.dumps([asdict(each) for each in entries])
            write_atomically(self._path, content.encode(), mode=0o600)
        except OSError as error:
            _log.error("entries of the audit log are not stored: %s: %s", self._path, error)


class AuditDelivery:
    """Delivers what waits, once an access service runs."""

    def __init__(
        self, outbox: AuditOutbox, registry: Registry, tls_dir: Path, retry_s: float = RETRY_S
    ) -> None:
        self._outbox = outbox
        self._retry_s = retry_s
        certificates = CertificateSource(CertificateFiles.of_role(tls_dir, _ROLE))
        self._channels = ChannelPool(
            partial(open_channel, role="access", certificates=certificates)
        )
        self._access = AnyInstance(registry, self._channels, "access")

    async def run(self) -> None:
        """Delivers until it is cancelled; what fails is tried again later."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._access.follow())
                tasks.create_task(self._deliver_all())
        finally:
            await self._channels.close()

    async def _deliver_all(self) -> None:
        batch: Sequence[AuditEntry] = ()
        while True:
            self._outbox.added.clear()
            if not self._outbox.entries:
                await self._outbox.added.wait()
            await self._access.registered()
            # The same batch again after a failure: it is recorded once.
            batch = batch or self._outbox.entries[:BATCH]
            try:
                await self._deliver(batch)
            except MeshError as error:
                _log.info("entries of the audit log wait: %s", error.message)
                await asyncio.sleep(self._retry_s)
            else:
                self._outbox.delivered(batch)
                batch = ()
                await asyncio.sleep(INTERVAL_S)

    async def _deliver(self, batch: Sequence[AuditEntry]) -> None:
        request = audit_request(batch)
        await self._access.call(
            lambda channel: PolicyServiceStub(channel).RecordAuditEntries(
                request, timeout=TIMEOUT_S
            )
        )


def audit_request(batch: Sequence[AuditEntry]) -> pb.RecordAuditEntriesRequest:
    """The request that records a batch, with an id that is the same for the same entries."""
    said = repr([asdict(each) for each in batch])
    return pb.RecordAuditEntriesRequest(
        batch_id=f"hosts-{sha256(said.encode()).hexdigest()[:40]}",
        entries=[
            pb.AuditReport(
                time=to_time(each.time_ms),
                actor=each.actor[:256],
                action=each.action,
                target=each.target[:256],
                details=each.details[:1024],
            )
            for each in batch
        ],
    )


def _read(path: Path) -> list[AuditEntry]:
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_bytes())
        return [AuditEntry(**row) for row in rows]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError) as error:
        _log.error("entries of the audit log are lost: %s: %s", path, error)
    return []
