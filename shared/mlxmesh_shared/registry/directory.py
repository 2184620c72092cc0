"""Discovery on one machine: a directory with one JSON record per instance.

A record is written to a draft and renamed into place. Its lease is its modification time, which its
owner renews. The wall clock measures the age of a lease only when it is first read; afterwards the
monotonic clock does, so that a change of the wall clock expires no lease. A record whose process on
this host is dead counts as expired at once. One whose process on this host lives may miss several
renewals, as after the host slept. A watch keeps its last set while the directory cannot be read.

A watch sleeps until the kernel reports a change of the directory or the end of a process, or until
the next lease would expire (docs/decisions/0035).
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxmesh_shared.registry.port import Instance, checked_name
from mlxmesh_shared.registry.record_changes import MAX_WAIT_S, POLL_S, RecordChanges

_log = logging.getLogger(__name__)
# A live process on this host may miss this many leases before it counts as gone.
_LEASES_OF_LIVE_PROCESS = 3


@dataclass(frozen=True, slots=True)
class _Lease:
    """A record's modification time; when it was renewed and last read, by the monotonic clock."""

    mtime_s: float
    renewed_s: float
    read_s: float


@dataclass
class _Found:
    """What one read of a folder found."""

    instances: list[Instance] = field(default_factory=list[Instance])
    pids: set[int] = field(default_factory=set[int])
    """Of the instances on this host."""
    valid_s: float = MAX_WAIT_S
    """How long it stays true if the folder does not change and no process ends."""

    def sorted_instances(self) -> tuple[Instance, ...]:
        return tuple(sorted(self.instances, key=lambda one: one.instance_id))


class DirectoryRegistry:
    """Satisfies Registry on one machine; one per process, on one event loop."""

    def __init__(
        self,
        path: Path,
        *,
        lease_s: float = 10.0,
        heartbeat_s: float | None = None,
        poll_s: float = POLL_S,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s if heartbeat_s is not None else lease_s / 2
        self._poll_s = poll_s
        self._wall_clock = wall_clock
        self._leases: dict[Path, _Lease] = {}
        self._host = socket.gethostname()
        self._own: dict[Path, Instance] = {}
        self._heartbeat: asyncio.Task[None] | None = None

    async def register(self, instance: Instance) -> None:
        """As in Registry. Raises: InvalidArgument when service or id cannot be a file's name."""
        record = self._record_path(instance.service, instance.instance_id)
        self._write(record, instance)
        self._own[record] = instance
        if self._heartbeat is None:
            self._sweep(record.parent)
            self._heartbeat = asyncio.create_task(self._keep_leases(), name="registry-heartbeat")

    async def deregister(self, instance: Instance) -> None:
        record = self._record_path(instance.service, instance.instance_id)
        self._own.pop(record, None)
        record.unlink(missing_ok=True)

    async def resolve(self, service: str) -> tuple[Instance, ...]:
        return self._read_all(self._service_path(service)).sorted_instances()

    async def watch(self, service: str) -> AsyncGenerator[tuple[Instance, ...], None]:
        folder = self._service_path(service)
        folder.mkdir(parents=True, exist_ok=True)
        last: tuple[Instance, ...] | None = None
        hold_until_s = 0.0
        with contextlib.closing(RecordChanges(folder, poll_s=self._poll_s)) as changes:
            while True:
                found = self._read_all(folder)
                alive = found.sorted_instances()
                if not _readable(folder):
                    # Leases may have expired meanwhile: wait for the next heartbeat of each owner.
                    hold_until_s = time.monotonic() + 2 * self._heartbeat_s
                holds = time.monotonic() < hold_until_s
                if alive != last and not holds:
                    last = alive
                    yield alive
                await changes.wait(found.pids, self._poll_s if holds else found.valid_s)

    async def close(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.gather(self._heartbeat, return_exceptions=True)
            self._heartbeat = None
        self._own.clear()

    def _service_path(self, service: str) -> Path:
        return self._path / checked_name(service, "service")

    def _record_path(self, service: str, instance_id: str) -> Path:
        return self._service_path(service) / f"{checked_name(instance_id, 'instance_id')}.json"

    def _write(self, record: Path, instance: Instance) -> None:
        record.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "service": instance.service,
            "instance_id": instance.instance_id,
            "address": instance.address,
            "pid": instance.pid,
            "host": self._host,
            "metadata": dict(instance.metadata),
        }
        draft = record.with_name(f".{record.stem}.{os.getpid()}.draft")
        draft.write_text(json.dumps(content), encoding="utf-8")
        draft.replace(record)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            for record, instance in list(self._own.items()):
                try:
                    self._renew(record, instance)
                except OSError as error:
                    # The next heartbeat retries: the disk may have been full.
                    _log.warning("cannot renew the lease of %s: %s", record, error)

    def _renew(self, record: Path, instance: Instance) -> None:
        try:
            os.utime(record)
        except FileNotFoundError:
            self._write(record, instance)

    def _read_all(self, folder: Path) -> _Found:
        records = set(_records(folder))
        gone = [one for one in self._leases if one.parent == folder and one not in records]
        for record in gone:
            del self._leases[record]
        found = _Found()
        for record in records:
            self._read(record, found)
        return found

    def _read(self, record: Path, found: _Found) -> None:
        """Adds the instance of a record, unless it is removed, dead, expired or unreadable."""
        try:
            content: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
            here = content["host"] == self._host
            if here and not _process_alive(content["pid"]):
                return
            leases = _LEASES_OF_LIVE_PROCESS if here else 1
            left_s = leases * self._lease_s - (time.monotonic() - self._lease(record).renewed_s)
            # An expired lease may be renewed, which is no change of the folder.
            found.valid_s = min(found.valid_s, left_s if left_s > 0 else self._poll_s)
            if left_s < 0:
                return
            found.instances.append(
                Instance(
                    service=content["service"],
                    instance_id=content["instance_id"],
                    address=content["address"],
                    pid=content["pid"],
                    metadata=content["metadata"],
                )
            )
            if here:
                found.pids.add(content["pid"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            found.valid_s = min(found.valid_s, self._poll_s)
            _log.warning("ignored the unreadable record %s: %r", record, error)

    def _lease(self, record: Path) -> _Lease:
        """The current lease; if the two clocks disagree about its age, the smaller age counts."""
        now_s, mtime_s = time.monotonic(), record.stat().st_mtime
        known = self._leases.get(record)
        if known is not None and known.mtime_s == mtime_s:
            renewed_s = known.renewed_s
        else:
            age_s = abs(self._wall_clock() - mtime_s)
            renewed_s = now_s - age_s if known is None else max(now_s - age_s, known.read_s)
        lease = self._leases[record] = _Lease(mtime_s, renewed_s, now_s)
        return lease

    def _sweep(self, folder: Path) -> None:
        """Removes stale records; an owner that only slept will write its record again."""
        for record in _records(folder):
            with contextlib.suppress(OSError):
                age_s = abs(self._wall_clock() - record.stat().st_mtime)
                if age_s > 10 * self._lease_s and not self._lives_here(record):
                    record.unlink()

    def _lives_here(self, record: Path) -> bool:
        """Whether a record's process lives on this host, regardless of its lease."""
        try:
            content: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
            return content["host"] == self._host and _process_alive(content["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return False


def _readable(folder: Path) -> bool:
    """Whether an empty result means that there is no instance."""
    return folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)


def _records(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*.json") if not path.name.startswith("."))


def _process_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _zombie(pid)


def _zombie(pid: int) -> bool:
    """Whether a process has ended but was not reaped; without /proc, init always reaps."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "Z"
