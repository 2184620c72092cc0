"""Brings one file into the store, from whoever has it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from mlxmesh_runtime.files.held_files import HeldFiles
from mlxmesh_runtime.files.sources import Role, Source, Sources
from mlxmesh_shared.artifacts.remote_file import RemoteFile
from mlxmesh_shared.artifacts.threads import in_thread
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    FetchFailed,
    MeshError,
    ModelFilesDamaged,
    UploadsFull,
)

_PAUSE_S = 0.2
_ROUNDS = 3


@dataclass(slots=True)
class Progress:
    """Of the files of one digest; written by their fetches, read by whoever shows it."""

    done_bytes: int = 0
    """Those that are here, whoever brought them."""
    total_bytes: int = 0
    received: dict[Role, int] = field(default_factory=lambda: dict.fromkeys(Role, 0))
    """Bytes that this fetch received, by the service that sent them."""

    def add(self, role: Role, size_bytes: int) -> None:
        """Records bytes that arrived."""
        self.done_bytes += size_bytes
        self.received[role] += size_bytes


class FileFetch:
    """Fetches files; a file that several tasks or processes of this host want is fetched once."""

    def __init__(
        self,
        held: HeldFiles,
        sources: Sources,
        *,
        stall_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """stall_s: how long to go on without a byte from anybody."""
        self._held = held
        self._sources = sources
        self._stall_s = stall_s
        self._clock = clock

    async def fetch(
        self, file: RemoteFile, digest: str, counted_bytes: int, progress: Progress
    ) -> None:
        """Returns once the file is in the store.

        digest: of a version or adapter that has it. counted_bytes: what progress has of it.
        Raises: FetchFailed when nobody sent a byte for too long. ModelFilesDamaged when the model
        service has other bytes. OSError.
        """
        async with self._exclusively(file):
            present_bytes = await in_thread(self._held.present_bytes, file)
            progress.done_bytes += present_bytes - counted_bytes
            if present_bytes == file.size_bytes and self._held.blobs.digest_of(file):
                return
            self._held.begin(file)
            try:
                # What is wrong may come from an earlier attempt or from another runtime, whose own
                # bytes are not verified while it fetches them. What the model service sends is not.
                for only_origins in (False, True):
                    if await self._attempt(file, digest, progress, only_origins=only_origins):
                        return
            finally:
                self._held.end(file)
        raise ModelFilesDamaged(
            f"{file.name} of the model service differs from its digest; run `mlxmesh artifacts"
            " verify`, then pull, import or register the model again"
        )

    @asynccontextmanager
    async def _exclusively(self, file: RemoteFile) -> AsyncGenerator[None]:
        lock = self._held.blobs.lock(file.key)
        await lock.acquire()
        try:
            yield
        finally:
            lock.release()

    async def _attempt(
        self, file: RemoteFile, digest: str, progress: Progress, *, only_origins: bool
    ) -> bool:
        """Whether the file is in the store; if not, its bytes were wrong and are removed."""
        await self._fill(file, digest, progress, only_origins=only_origins)
        kept = await in_thread(self._held.blobs.keep, self._held.part(file))
        if not kept:
            progress.done_bytes -= file.size_bytes
        return bool(kept)

    async def _fill(
        self, file: RemoteFile, digest: str, progress: Progress, *, only_origins: bool
    ) -> None:
        part = self._held.part(file)
        here = part.size_bytes
        if here > file.size_bytes:
            part.remove()
            here = 0
        last_s, failed_rounds = self._clock(), 0
        slow: set[Source] = set()
        while here < file.size_bytes:
            before, errors = here, list[MeshError]()
            # Now and then the model service, if runtimes that have more send nothing.
            ask_runtimes = not only_origins and failed_rounds % _ROUNDS != _ROUNDS - 1
            avoided = slow if ask_runtimes else None
            for source in await self._candidates(file, here, errors, avoided):
                known = len(errors)
                here = await self._read(source, file, digest, here, progress, errors)
                if here == file.size_bytes:
                    break
                if any(isinstance(each, DeadlineExceeded) for each in errors[known:]):
                    slow.add(source)
                elif here > before:
                    break
            busy = any(isinstance(each, UploadsFull) for each in errors)
            failed_rounds = 0 if here > before or busy else failed_rounds + 1
            if not failed_rounds:
                last_s = self._clock()
            self._check(file, errors, last_s, moved=here > before)
            if here == before:
                await asyncio.sleep(_PAUSE_S)

    def _check(
        self, file: RemoteFile, errors: list[MeshError], last_s: float, *, moved: bool
    ) -> None:
        if moved:
            return
        # The last one that was asked has the file, and says that it was changed.
        if errors and isinstance(errors[-1], ModelFilesDamaged):
            raise errors[-1]
        if self._clock() - last_s >= self._stall_s:
            cause = errors[-1].message if errors else "no model service is registered"
            raise FetchFailed(
                f"{file.name} could not be fetched: no process sent any of it for"
                f" {self._stall_s:g} s ({cause}); what arrived is kept"
            )

    async def _candidates(
        self,
        file: RemoteFile,
        here: int,
        errors: list[MeshError],
        avoided: Collection[Source] | None,
    ) -> Sequence[Source]:
        """Whom to ask, in this order: runtimes while one has more, even if all of these are busy.
        Otherwise the hosts that wait for them would all read from the model service in turn.

        avoided: runtimes that are asked last; None to ask no runtime.
        """
        try:
            ahead: Sequence[Source] = ()
            if avoided is not None:
                ahead = await self._sources.ahead(file, here)
            fast = [each for each in ahead if each not in (avoided or ())]
            return fast or [*await self._sources.origins(), *ahead]
        except MeshError as error:  # the registry's
            errors.append(error)
            return []

    async def _read(
        self,
        source: Source,
        file: RemoteFile,
        digest: str,
        here: int,
        progress: Progress,
        errors: list[MeshError],
    ) -> int:
        """How much of the file is here after a source sent what it has."""
        part = self._held.part(file)
        try:
            async with aclosing(self._sources.read(source, file, digest, here)) as chunks:
                async for chunk in chunks:
                    if here + len(chunk) > file.size_bytes:
                        raise ModelFilesDamaged(f"{source.address} has more bytes of {file.name}")
                    await in_thread(part.write_at, here, chunk)
                    here += len(chunk)
                    progress.add(source.role, len(chunk))
        except ModelFilesDamaged as error:
            # Only the model service knows of changes.
            of_origin = source.role is Role.MODEL
            errors.append(error if of_origin else FetchFailed(error.message))
        except MeshError as error:
            errors.append(error)
        return here
