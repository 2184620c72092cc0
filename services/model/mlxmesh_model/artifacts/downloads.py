"""Brings the files of a hub's model into the store; what is there is not downloaded again."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from mlxmesh_model.artifacts.hub import Fetch, Hub, HubModel
from mlxmesh_model.artifacts.progress import Progress
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.artifacts.remote_file import RemoteFile
from mlxmesh_shared.artifacts.threads import in_thread
from mlxmesh_shared.errors import DiskFull, HubUnavailable
from mlxmesh_shared.host.disk import DISK_FULL, disk_full


class Downloads:
    """Downloads each content once, whatever number of calls and processes want it."""

    def __init__(self, hub: Hub, blobs: BlobStore) -> None:
        self._hub = hub
        self._blobs = blobs

    async def fetch(self, model: HubModel, progress: Progress) -> Mapping[str, str]:
        """Downloads what the store lacks. Returns the SHA-256 of each file, by name.

        Raises: HubUnavailable. DiskFull, which says how much is needed and free. OSError.
        """
        present = await in_thread(self._present, model)
        progress.total_bytes = model.total_bytes
        progress.done_bytes = sum(present.values())
        self._check_space(model, model.total_bytes - progress.done_bytes)
        try:
            async with self._hub.fetching(model) as fetch:
                return {
                    file.name: await self._one(file, fetch, present[file.key], progress)
                    for file in model.files
                }
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise self._full(model, progress.total_bytes - progress.done_bytes) from error

    async def take_over(self, model: HubModel, directory: Path) -> None:
        """Continues with what an earlier version of this service downloaded into a directory."""
        for file in model.files:
            await in_thread(self._blobs.take_over, file, directory)

    def _present(self, model: HubModel) -> dict[str, int]:
        """The bytes that are here, by the key of the file."""
        return {
            file.key: file.size_bytes
            if self._blobs.digest_of(file)
            else min(self._blobs.part(file).size_bytes, file.size_bytes)
            for file in model.files
        }

    def _check_space(self, model: HubModel, needed_bytes: int) -> None:
        """Raises: DiskFull before a download that cannot succeed."""
        if needed_bytes > self._blobs.disk.free_bytes(self._blobs.root):
            raise self._full(model, needed_bytes)

    def _full(self, model: HubModel, needed_bytes: int) -> DiskFull:
        free_bytes = self._blobs.disk.free_bytes(self._blobs.root)
        return disk_full(
            self._blobs.models_dir,
            f"{model.repo_id} needs {needed_bytes:,} more bytes, and {free_bytes:,} are free;"
            " what was downloaded is kept",
        )

    async def _one(
        self, file: RemoteFile, fetch: Fetch, counted_bytes: int, progress: Progress
    ) -> str:
        """The SHA-256 of a file that is in the store now."""
        async with self._exclusively(file):
            digest = await in_thread(self._blobs.digest_of, file)
            part = self._blobs.part(file)
            # Another call may have downloaded it, or more of it, since the bytes were counted.
            present = file.size_bytes if digest else part.size_bytes
            progress.done_bytes += present - counted_bytes
            if digest:
                return digest
            progress.file = file.name
            resumed = part.size_bytes > 0
            digest = await self._attempt(file, fetch, progress)
            if not digest and resumed:
                # The bytes of an earlier attempt were not all on disk, or the hub changed the file.
                digest = await self._attempt(file, fetch, progress)
        if not digest:
            raise HubUnavailable(
                f"{file.name} did not match its checksum and was removed; pull again"
            )
        return digest

    async def _attempt(self, file: RemoteFile, fetch: Fetch, progress: Progress) -> str:
        part = self._blobs.part(file)
        await fetch(part, progress)
        here = part.size_bytes
        digest = await in_thread(self._blobs.keep, part)
        if not digest:
            progress.done_bytes -= here
        return digest

    @asynccontextmanager
    async def _exclusively(self, file: RemoteFile) -> AsyncGenerator[None]:
        lock = self._blobs.lock(file.key)
        await lock.acquire()
        try:
            yield
        finally:
            lock.release()
