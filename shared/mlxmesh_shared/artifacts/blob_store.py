"""Files by their content: each is stored once, and the directories of versions are links to them.

    models_dir/_store/blobs/ab/abcd...   a whole file, named by its SHA-256
    models_dir/_store/parts/KEY.part     a file that is being downloaded
    models_dir/_store/git/OID            the SHA-256 of a file that a hub names by a git object id
    models_dir/_store/staging/ID         a directory that is being made, or removed
    models_dir/_store/locks/KEY          a lock for each of them

No model's name starts with an underscore, so the folder has no model's name.
"""

import shutil
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from mlxmesh_shared.artifacts.digests import sha256
from mlxmesh_shared.artifacts.disk import Disk, LocalDisk, sync
from mlxmesh_shared.artifacts.part_file import PartFile
from mlxmesh_shared.artifacts.remote_file import RemoteFile
from mlxmesh_shared.host.file_lock import FileLock

FOLDER = "_store"
_READ_ONLY = 0o444


class BlobMissing(Exception):
    """A file is not in the store, or its copy differs from its digest."""


class BlobStore:
    """The store under `models_dir`, of the model services or of the runtimes of one host; nobody
    else writes to it. Its methods block.
    """

    def __init__(self, models_dir: Path, disk: Disk | None = None) -> None:
        self.models_dir = models_dir
        self.disk = disk or LocalDisk()

    @property
    def root(self) -> Path:
        """The folder of the store."""
        return self.models_dir.resolve() / FOLDER

    @property
    def blobs(self) -> Path:
        """The folder of whole files."""
        return self.root / "blobs"

    @property
    def parts(self) -> Path:
        """The folder of files that are being downloaded."""
        return self.root / "parts"

    @property
    def staging(self) -> Path:
        """The folder of directories that are being made or removed."""
        return self.root / "staging"

    def lock(self, key: str) -> FileLock:
        """A lock between all tasks and processes; not yet acquired."""
        return FileLock(self.root / "locks" / key)

    # Files.

    def blob(self, digest: str) -> Path:
        """Where a file with this SHA-256 is stored."""
        return self.blobs / digest[:2] / digest

    def known_as(self, git_oid: str) -> str:
        """The SHA-256 of a file that was stored under a git object id; empty for none."""
        with suppress(FileNotFoundError):
            return (self.root / "git" / git_oid).read_text(encoding="ascii")
        return ""

    def digest_of(self, file: RemoteFile) -> str:
        """The SHA-256 of a hub's file that is in the store; empty for one that is not."""
        digest = file.sha256 or self.known_as(file.git_oid)
        with suppress(FileNotFoundError):
            if digest and self.blob(digest).stat().st_size == file.size_bytes:
                return digest
        return ""

    def part(self, file: RemoteFile) -> PartFile:
        """The bytes of a hub's file so far."""
        return PartFile(file, self.parts, self.disk)

    def keep(self, part: PartFile) -> str:
        """Stores a downloaded file and returns its SHA-256; empty, and its bytes are removed, if
        they are not what the hub announced.
        """
        digest = part.verified()
        if digest:
            if part.file.git_oid:
                self._remember(part.file.git_oid, digest)
            self._add(part.path, digest)
        return digest

    def _remember(self, git_oid: str, digest: str) -> None:
        path = self.root / "git" / git_oid
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{git_oid}.{uuid4().hex[:8]}")
        new.write_text(digest, encoding="ascii")
        new.replace(path)

    def _add(self, path: Path, digest: str) -> None:
        """Moves a verified file into the store; a power failure cannot leave half of it there."""
        blob = self.blob(digest)
        if blob.exists():
            path.unlink()
            return
        sync(path)
        path.chmod(_READ_ONLY)
        blob.parent.mkdir(parents=True, exist_ok=True)
        path.replace(blob)
        sync(blob.parent)

    def discard_damaged(self, digest: str) -> None:
        """Takes a file out of the store if its content differs from its digest."""
        blob = self.blob(digest)
        if digest and blob.exists() and sha256(blob) != digest:
            blob.unlink(missing_ok=True)

    def take_over(self, file: RemoteFile, directory: Path) -> None:
        """Continues with what an earlier version of this service downloaded into a directory."""
        part = self.part(file)
        if part.path.exists() or self.digest_of(file):
            return
        checksum = file.sha256 or file.git_oid
        for name in (f"{file.name}.{checksum[:16]}.part", file.name):
            old = directory / name
            # Never a file with another name: it would be written to.
            if old.is_file() and not old.is_symlink() and old.stat().st_nlink == 1:
                part.path.parent.mkdir(parents=True, exist_ok=True)
                old.chmod(0o644)
                old.replace(part.path)
                return

    # Directories.

    @asynccontextmanager
    async def staged(self, name: str = "") -> AsyncGenerator[Path]:
        """The path of a directory to make, which does not exist yet; what remains of it at the end
        of the block is removed.
        """
        path = self.staging / (name or uuid4().hex[:12])
        lock = self.lock(f"staging-{path.name}")
        await lock.acquire()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            (self.root / "locks" / f"staging-{path.name}").unlink(missing_ok=True)
            lock.release()

    def fill(self, directory: Path, digests: Mapping[str, str]) -> None:
        """Makes a directory of links to stored files, durably.

        Raises: BlobMissing. OSError.
        """
        directory.mkdir(parents=True)
        for name, digest in digests.items():
            (directory / name).parent.mkdir(exist_ok=True)
            self._link(digest, directory / name)
        _sync_folders(directory, digests)

    def _link(self, digest: str, target: Path) -> None:
        blob = self.blob(digest)
        try:
            linked = self.disk.link(blob, target)
        except FileNotFoundError as error:
            raise BlobMissing(target.name) from error
        if not linked and sha256(target) != digest:
            blob.unlink(missing_ok=True)
            raise BlobMissing(target.name)

    def absorb(self, directory: Path, digests: Mapping[str, str]) -> None:
        """Stores the files of a complete directory; one that is stored already is replaced by a
        link. The directory is whole at every moment.
        """
        for name, digest in digests.items():
            self._absorb(directory / name, digest)
        _sync_folders(directory, digests)

    def _absorb(self, path: Path, digest: str) -> None:
        blob = self.blob(digest)
        blob.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            sync(path)
            self.disk.link(path, blob)
            blob.chmod(_READ_ONLY)
            sync(blob.parent)
        elif not blob.samefile(path):
            new = path.with_name(f".{uuid4().hex}")
            self._link(digest, new)
            new.replace(path)

    def restore(self, directory: Path, digests: Mapping[str, str]) -> None:
        """Gives the files of a version's directory their names in the store again, if a removal of
        unused files that ran at the same time took them.
        """
        for name, digest in digests.items():
            if not self.blob(digest).exists():
                self._absorb(directory / name, digest)

    def publish(self, staged: Path, directory: Path) -> None:
        """Moves a complete directory to its place, where it replaces a present one."""
        directory.parent.mkdir(parents=True, exist_ok=True)
        with self._aside(directory):
            staged.replace(directory)
        sync(directory.parent)

    def remove_directory(self, directory: Path) -> None:
        """Removes a directory; it is gone at once or not at all."""
        with self._aside(directory):
            pass

    @contextmanager
    def _aside(self, directory: Path) -> Generator[None]:
        """Moves a directory away and removes it after the block; a failed block gets it back."""
        aside = self.staging / uuid4().hex
        if directory.is_symlink() or not directory.exists():
            yield
            return
        aside.parent.mkdir(parents=True, exist_ok=True)
        directory.replace(aside)
        try:
            yield
        except OSError:
            aside.replace(directory)
            raise
        shutil.rmtree(aside, ignore_errors=True)

    def remove_unused_locks(self) -> None:
        """Removes the files of locks that nobody has."""
        for path in (self.root / "locks").glob("*"):
            lock = self.lock(path.name)
            if lock.try_acquire():
                path.unlink(missing_ok=True)
                lock.release()

    def clean_staging(self) -> None:
        """Removes what ended processes left in the folder of directories in the making."""
        for path in list(self.staging.iterdir()) if self.staging.exists() else []:
            lock = self.lock(f"staging-{path.stem}")
            if lock.try_acquire():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
                (self.root / "locks" / f"staging-{path.stem}").unlink(missing_ok=True)
                lock.release()


def _sync_folders(directory: Path, names: Iterable[str]) -> None:
    """Makes the entries of a directory and of the folders of these files durable."""
    for folder in {directory, *((directory / name).parent for name in names)}:
        sync(folder)
