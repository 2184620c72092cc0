"""Entries for the audit log of the access service, which wait on disk until they are delivered."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mlxmesh_shared.audit_delivery import RETRY_S, AuditDelivery, AuditEntry
from mlxmesh_shared.host.atomic_file import write_atomically
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.channels import ChannelPool, open_channel
from mlxmesh_shared.tls import CertificateFiles, CertificateSource

FILE_NAME = "audit.json"
MAX_ENTRIES = 1000
"""The oldest beyond this are removed: a mesh without users has no audit log."""
_ROLE = "tools"
"""The service whose certificate may add entries; only the first host has it."""

_log = logging.getLogger(__name__)


class AuditOutbox:
    """The entries that wait, in a file. Satisfies Outbox."""

    def __init__(self, folder: Path) -> None:
        """A file that cannot be read is replaced with the next entry."""
        self._path = folder / FILE_NAME
        self._entries = _read(self._path)

    @property
    def entries(self) -> Sequence[AuditEntry]:
        """The oldest first."""
        return self._entries

    def add(self, entry: AuditEntry) -> None:
        """Stores an entry. A full disk must not stop what it reports, so that is only logged."""
        self._store([*self._entries, entry][-MAX_ENTRIES:])

    async def audit_entries(self, limit: int) -> Sequence[AuditEntry]:
        return self._entries[:limit]

    async def audit_delivered(self, batch: Sequence[AuditEntry]) -> None:
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


async def deliver_audit(
    outbox: AuditOutbox, registry: Registry, tls_dir: Path, retry_s: float = RETRY_S
) -> None:
    """Delivers what waits, once an access service runs, until it is cancelled."""
    certificates = CertificateSource(CertificateFiles.of_role(tls_dir, _ROLE))
    channels = ChannelPool(partial(open_channel, role="access", certificates=certificates))
    try:
        await AuditDelivery(outbox, registry, channels, source="hosts", retry_s=retry_s).run()
    finally:
        await channels.close()


def _read(path: Path) -> list[AuditEntry]:
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_bytes())
        return [AuditEntry(**row) for row in rows]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError) as error:
        _log.error("entries of the audit log are lost: %s: %s", path, error)
    return []
