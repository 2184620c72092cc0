"""Discovery on one machine: a directory with one JSON record per instance.

A record is written to a draft and renamed into place. Its lease is its modification time, which its
owner renews. The wall clock measures the age of a lease only when it is first read; afterwards the
monotonic clock does, so that a change of the wall clock expires no lease. A record whose process on
this host is dead counts as expired at once. One whose process on this host lives may miss several
renewals, as after the host slept. A watch keeps its last set while the directory cannot be read.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import watchfiles
from watchfiles import Change

from mlxmesh_shared.registry.port import Instance, checked_name

_log = logging.getLogger(__name__)
# File events report changes at once. Polling finds the rest: expired leases, dead processes, and
# every change on file systems without events.
POLL_S = 2.0
# A live process on this host may miss this many leases before it counts as gone.
_LEASES_OF_LIVE_PROCESS = 3


@dataclass(frozen=True, slots=True)
class _Lease:
    """A record's modification time; when it was renewed and last read, by the monotonic clock."""

    mtime_s: float
    renewed_s: float
    read_s: float


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
        self._heartbeat_s = heartbeat_s if heartbeat_s is not None else lease_s / 4
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
        return self._alive(self._service_path(service))

    async def watch(self, service: str) -> AsyncGenerator[tuple[Instance, ...], None]:
        folder = self._service_path(service)
        folder.mkdir(parents=True, exist_ok=True)
        last: tuple[Instance, ...] | None = None
        hold_until_s = 0.0
        async with contextlib.aclosing(_ticks(folder, self._poll_s)) as ticks:
            async for _ in ticks:
                alive = self._alive(folder)
                if not _readable(folder):
                    # Leases may have expired meanwhile: wait for the next heartbeat of each owner.
                    hold_until_s = time.monotonic() + 2 * self._heartbeat_s
                if alive != last and time.monotonic() >= hold_until_s:
                    last = alive
                    yield alive

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

    def _alive(self, folder: Path) -> tuple[Instance, ...]:
        records = set(_records(folder))
        gone = [one for one in self._leases if one.parent == folder and one not in records]
        for record in gone:
            del self._leases[record]
        found = (self._read(record) for record in records)
        return tuple(sorted((i for i in found if i is not None), key=lambda i: i.instance_id))

    def _read(self, record: Path) -> Instance | None:
        """The instance of a record; None if it is removed, dead, expired or unreadable."""
        try:
            content: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
            here = content["host"] == self._host
            if self._expired(record, leases=_LEASES_OF_LIVE_PROCESS if here else 1):
                return None
            if here and not _process_alive(content["pid"]):
                return None
            return Instance(
                service=content["service"],
                instance_id=content["instance_id"],
                address=content["address"],
                pid=content["pid"],
                metadata=content["metadata"],
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("ignored the unreadable record %s: %r", record, error)
            return None

    def _expired(self, record: Path, leases: int) -> bool:
        return time.monotonic() - self._lease(record).renewed_s > leases * self._lease_s

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


async def _ticks(folder: Path, poll_s: float) -> AsyncGenerator[None, None]:
    """Yields now, after each change in the folder, and at least once in each poll interval."""
    changes = watchfiles.awatch(  # pyright: ignore[reportUnknownMemberType]
        folder,
        watch_filter=None,
        debounce=100,
        step=10,
        rust_timeout=round(poll_s * 1000),
        yield_on_timeout=True,
        recursive=False,
    )
    last_s = time.monotonic()
    # The watch starts before the first read, so that no change is missed.
    change = asyncio.ensure_future(anext(changes))
    try:
        await asyncio.sleep(0)
        yield
        while True:
            events = await change
            change = asyncio.ensure_future(anext(changes))
            now_s = time.monotonic()
            # Renewing a lease changes only the time of a file.
            if now_s - last_s >= poll_s or any(kind is not Change.modified for kind, _ in events):
                last_s = now_s
                yield
    except OSError as error:
        # No inotify instances are left, or the file system has no events.
        _log.warning("watching %s by polling alone: %s", folder, error)
    finally:
        change.cancel()
        await asyncio.gather(change, return_exceptions=True)
        await changes.aclose()
    while True:
        await asyncio.sleep(poll_s)
        yield


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
