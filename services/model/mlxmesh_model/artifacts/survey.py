"""Looks at what the store has on disk."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from mlxmesh_model.artifacts.stored_directory import ADAPTERS, IMPORTED
from mlxmesh_model.artifacts.unused import FileOnDisk
from mlxmesh_shared.artifacts.blob_store import FOLDER, BlobStore
from mlxmesh_shared.artifacts.part_file import SUFFIX

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_OWN_FOLDERS = (FOLDER, IMPORTED, ADAPTERS)


def stored_bytes(blobs: BlobStore) -> int:
    """Bytes of all files under models_dir; a file with several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for path in _files(blobs.models_dir.resolve()):
        found = path.lstat()
        seen[found.st_dev, found.st_ino] = found.st_size
    return sum(seen.values())


def version_directories(blobs: BlobStore) -> Iterator[tuple[str, int, Path]]:
    """The directories that are named like those of pulled versions."""
    root = blobs.models_dir.resolve()
    for parent in root.iterdir() if root.is_dir() else ():
        if parent.name in _OWN_FOLDERS or parent.is_symlink() or not parent.is_dir():
            continue
        for directory in parent.iterdir():
            if _NUMBER.fullmatch(directory.name) and not directory.is_symlink():
                yield parent.name, int(directory.name), directory


def adapter_directories(blobs: BlobStore) -> Iterator[tuple[str, float, Path]]:
    """The digest of each stored adapter, when it was last added or removed, and its directory."""
    root = blobs.models_dir.resolve() / ADAPTERS
    for directory in root.iterdir() if root.is_dir() else ():
        if directory.is_dir() and not directory.is_symlink():
            yield directory.name, directory.stat().st_mtime, directory


def directory_files(directory: Path, removed: Counter[tuple[int, int]]) -> Iterator[FileOnDisk]:
    """The files of a directory that is to be removed; counts them in `removed`."""
    for path in _files(directory):
        found = path.lstat()
        removed[found.st_dev, found.st_ino] += 1
        yield FileOnDisk(path, "", found.st_size, found.st_nlink - 1, found.st_mtime)


def files_of_store(
    blobs: BlobStore, removed: Counter[tuple[int, int]], running: Collection[str]
) -> list[FileOnDisk]:
    """The whole and the partial files of the store.

    removed: how many names of each file are about to be removed. running: keys in use now.
    """
    found = [*_blobs(blobs, removed), *_parts(blobs)]
    return [file for file in found if file.key not in running]


def _blobs(blobs: BlobStore, removed: Counter[tuple[int, int]]) -> Iterator[FileOnDisk]:
    for path in _files(blobs.blobs):
        stat = path.lstat()
        links = stat.st_nlink - 1 - removed[stat.st_dev, stat.st_ino]
        # Downloading it was progress, whatever its links changed since.
        yield FileOnDisk(path, path.name, stat.st_size, links, stat.st_mtime)


def _parts(blobs: BlobStore) -> Iterator[FileOnDisk]:
    for path in _files(blobs.parts):
        stat = path.lstat()
        key = path.name.removesuffix(SUFFIX)
        yield FileOnDisk(path, key, stat.st_size, 0, stat.st_mtime)


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield Path(folder) / name
