"""Fetches the files of versions and adapters, each digest once at a time."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from mlxmesh_runtime.files.convert_events import fetch_failed, fetch_started, fetched
from mlxmesh_runtime.files.file_fetch import FileFetch, Progress
from mlxmesh_runtime.files.held_files import HeldFiles, Pruned
from mlxmesh_runtime.files.sources import Role, Sources
from mlxmesh_runtime.files.wanted import Wanted
from mlxmesh_shared.artifacts.blob_store import BlobMissing
from mlxmesh_shared.artifacts.manifest import Manifest, ManifestFile
from mlxmesh_shared.artifacts.threads import in_thread
from mlxmesh_shared.errors import DiskFull, FetchFailed, Internal, MeshError
from mlxmesh_shared.events import Publish, discard_event
from mlxmesh_shared.host.disk import disk_error, disk_full
from mlxmesh_shared.rendezvous import rendezvous_weight
from mlxmesh_shared.telemetry.instruments import Instrument, Kind
from mlxmesh_shared.telemetry.metrics import Metrics

RECEIVED_BYTES = Instrument(
    "mlxmesh.runtime.fetch.received",
    Kind.COUNTER,
    "By",
    "Bytes of files that were fetched, by the service that sent them: model or runtime",
)
FETCHES = Instrument(
    "mlxmesh.runtime.fetches", Kind.GAUGE, "{fetch}", "Versions and adapters that are being fetched"
)
SERVICE = "mlxmesh.service"
CONCURRENT_FILES = 2
# A prune may remove a file that was present when the fetch looked, but not twice.
_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """Bounds of time and space."""

    stall_s: float = 60.0
    """How long a fetch goes on without a byte from anybody."""
    max_bytes: int | None = None
    """Of all fetched files together; None for what the disk has."""


@dataclass(slots=True)
class _Running:
    """A fetch and those that wait for it."""

    task: asyncio.Task[Path]
    progress: Progress
    waiters: int = field(default=0)


class Fetches:
    """Brings files to this host."""

    def __init__(
        self,
        held: HeldFiles,
        sources: Sources,
        *,
        runtime_id: str,
        limits: FetchLimits | None = None,
        publish: Publish = discard_event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._held = held
        self._sources = sources
        self._runtime_id = runtime_id
        self._limits = limits or FetchLimits()
        self._publish = publish
        self._clock = clock
        self._files = FileFetch(held, sources, stall_s=self._limits.stall_s, clock=clock)
        self._running: dict[str, _Running] = {}
        self._received = dict.fromkeys(Role, 0)

    async def fetch(self, wanted: Wanted, manifest: Manifest | None = None) -> Path:
        """The directory of a version or adapter, once its files are on this host. All that want one
        digest share its fetch; it ends with the last of them.

        manifest: its files, if they are known. Raises: DiskFull, which says how much is needed and
        free. ModelFilesDamaged. FetchFailed; what arrived is kept.
        """
        running = self._running.get(wanted.digest)
        if running is None:
            progress = Progress()
            task = asyncio.create_task(self._run(wanted, manifest, progress))
            running = self._running[wanted.digest] = _Running(task, progress)
        running.waiters += 1
        try:
            return await asyncio.shield(running.task)
        finally:
            running.waiters -= 1
            if not running.waiters:
                if self._running.get(wanted.digest) is running:
                    del self._running[wanted.digest]
                running.task.cancel()
                await asyncio.wait({running.task})

    def progress(self, digest: str) -> Progress | None:
        """How far a fetch is; None if there is none of this digest."""
        running = self._running.get(digest)
        return running.progress if running is not None else None

    def check_space(self, weights_bytes: int) -> None:
        """Raises: DiskFull when there is no room for weights, whatever is here of them."""
        here = sum(path.stat().st_size for path in self._held.blobs.parts.glob("*"))
        self._check_space(weights_bytes - here)

    async def prune(self, needed: Sequence[str], *, dry_run: bool) -> Pruned:
        """Removes what was fetched and is neither needed nor being fetched."""
        kept = {*needed, *self._running}
        return await in_thread(self._held.prune, kept, dry_run=dry_run)

    def observe(self, metrics: Metrics) -> None:
        """Exports the metrics."""
        metrics.observe(
            RECEIVED_BYTES,
            lambda: [(self._bytes_from(role), {SERVICE: role.value}) for role in Role],
        )
        metrics.observe_value(FETCHES, lambda: len(self._running))

    def _bytes_from(self, role: Role) -> int:
        running = sum(each.progress.received[role] for each in self._running.values())
        return self._received[role] + running

    async def _run(self, wanted: Wanted, manifest: Manifest | None, progress: Progress) -> Path:
        try:
            directory = await self._fetched(wanted, manifest, progress)
        except (MeshError, OSError) as error:
            failure = self._failure_of(error, progress)
            self._tell(wanted, fetch_failed(wanted, self._runtime_id, failure))
            raise failure from error
        finally:
            for role, size_bytes in progress.received.items():
                self._received[role] += size_bytes
            progress.received = dict.fromkeys(Role, 0)
        return directory

    async def _fetched(self, wanted: Wanted, manifest: Manifest | None, progress: Progress) -> Path:
        whole = await in_thread(self._held.whole_directory, wanted.digest)
        if whole is not None:
            return whole
        began_s = self._clock()
        manifest = manifest or await self._manifest(wanted)
        await in_thread(self._held.store_manifest, manifest)
        for _ in range(_ATTEMPTS):
            present = await in_thread(self._present, manifest)
            progress.total_bytes, progress.done_bytes = manifest.total_bytes, sum(present.values())
            missing_bytes = progress.total_bytes - progress.done_bytes
            await in_thread(self._check_space, missing_bytes)
            self._tell(wanted, fetch_started(wanted, self._runtime_id, progress))
            await self._all(manifest, present, progress)
            try:
                async with self._held.blobs.staged() as staged:
                    directory = await in_thread(self._held.publish, manifest, staged)
            except BlobMissing:
                continue
            duration_s = self._clock() - began_s
            self._tell(wanted, fetched(wanted, self._runtime_id, progress, duration_s))
            return directory
        raise Internal("fetched files are removed while others are fetched; see who removes them")

    async def _manifest(self, wanted: Wanted) -> Manifest:
        stored = await in_thread(self._held.stored_manifest, wanted.digest)
        manifest = stored or await self._sources.manifest(wanted.digest)
        if wanted.is_version and not manifest.is_of_version:
            raise FetchFailed(f"the files that were told of do not have the digest {wanted.digest}")
        return manifest

    def _present(self, manifest: Manifest) -> dict[str, int]:
        """The bytes that are here, by the name of the file."""
        return {file.name: self._held.present_bytes(file.remote) for file in manifest.files}

    async def _all(self, manifest: Manifest, present: dict[str, int], progress: Progress) -> None:
        """Fetches every file, some at a time. Each runtime has its own order, so that runtimes that
        fetch one model at once soon have different files to give to each other.
        """
        places = asyncio.Semaphore(CONCURRENT_FILES)

        async def one(file: ManifestFile) -> None:
            async with places:
                counted_bytes = present[file.name]
                await self._files.fetch(file.remote, manifest.digest, counted_bytes, progress)

        def order(file: ManifestFile) -> bytes:
            return rendezvous_weight(file.sha256, self._runtime_id)

        await _all_of([one(file) for file in sorted(manifest.files, key=order)])

    def _check_space(self, needed_bytes: int) -> None:
        """Raises: DiskFull before a fetch that cannot succeed."""
        blobs = self._held.blobs
        free_bytes = blobs.disk.free_bytes(blobs.root)
        if needed_bytes > free_bytes:
            raise self._full(f"{needed_bytes:,} more bytes are needed, and {free_bytes:,} are free")
        limit = self._limits.max_bytes
        if limit is not None and needed_bytes > 0:
            stored_bytes = self._held.stored_bytes()
            if stored_bytes + needed_bytes > limit:
                raise DiskFull(
                    f"{needed_bytes:,} more bytes are needed, and [runtime] fetched_files_bytes"
                    f" leaves {max(0, limit - stored_bytes):,}: run `mlxmesh artifacts prune`, or"
                    " raise the setting"
                )

    def _full(self, detail: str) -> DiskFull:
        return disk_full(self._held.blobs.models_dir, detail)

    def _failure_of(self, error: MeshError | OSError, progress: Progress) -> MeshError:
        if isinstance(error, MeshError):
            return error
        folder = self._held.blobs.models_dir
        failure = disk_error(error, folder)
        if isinstance(failure, DiskFull):
            missing_bytes = progress.total_bytes - progress.done_bytes
            free_bytes = self._held.blobs.disk.free_bytes(folder)
            return self._full(
                f"{missing_bytes:,} more bytes are needed, and {free_bytes:,} are free; what"
                " arrived is kept"
            )
        return failure or FetchFailed(f"the files cannot be written ({error.strerror}): {folder}")

    def _tell(self, wanted: Wanted, event: Message) -> None:
        self._publish(event, wanted.label)


async def _all_of(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Runs all; the first error ends the others."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
