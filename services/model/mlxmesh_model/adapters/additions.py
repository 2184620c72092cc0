"""Adds adapters: examines their files, and copies them into the store by their content."""

import os
import shutil
from datetime import UTC, datetime
from filecmp import cmp
from pathlib import Path

from mlxmesh_model.adapters.examination import adapter_files, examined
from mlxmesh_model.adapters.store import Adapters
from mlxmesh_model.artifacts.progress import failure_of
from mlxmesh_model.artifacts.stored_directory import ADAPTERS
from mlxmesh_model.catalogue.adapter import Adapter
from mlxmesh_model.catalogue.models import Model
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.artifacts.disk import sync
from mlxmesh_shared.artifacts.threads import in_thread

_READ_ONLY = 0o444


class Additions:
    """Copies adapters to `models_dir/_adapters/DIGEST`, so that later changes of the directory
    that they came from change nothing.
    """

    def __init__(self, adapters: Adapters, blobs: BlobStore) -> None:
        self._adapters = adapters
        self._blobs = blobs

    async def add(self, model: str, name: str, directory: Path, *, replace: bool) -> Adapter:
        """Examines the adapter of a directory, stores it, and adds it to a model.

        Raises: ModelNotFound, AdapterInvalid, AdapterExists, DiskFull, ServiceUnavailable; as
        Adapters.add().
        """
        of_model = await self._adapters.check(model, name)
        files = await in_thread(adapter_files, directory)
        try:
            async with self._blobs.staged() as staged:
                await in_thread(_copy, files, staged)
                found = await in_thread(examined, staged, _directory(of_model))
                await in_thread(_drop_unused, staged, found.format)
                stored = self._blobs.models_dir.resolve() / ADAPTERS / found.digest
                await in_thread(self._keep, staged, stored)
        except OSError as error:
            raise failure_of(error, self._blobs.models_dir) from error
        adapter = Adapter(
            model=model,
            name=name,
            digest=found.digest,
            directory=str(stored),
            format=found.format,
            rank=found.rank,
            weights_bytes=found.weights_bytes,
            modules=found.modules,
            created_at=datetime.now(UTC),
        )
        return await self._adapters.add(adapter, replace=replace)

    async def remove(self, model: str, name: str) -> None:
        """Removes an adapter. Its files stay until `Pruning` removes them.

        Raises: ModelNotFound, AdapterNotFound, IllegalState.
        """
        removed = await self._adapters.remove(model, name)
        await in_thread(_touch, Path(removed.directory))

    def _keep(self, staged: Path, stored: Path) -> None:
        """Moves examined files to their place; equal ones that are there already stay."""
        if stored.is_dir() and _equal(staged, stored):
            _touch(stored)
        else:
            self._blobs.publish(staged, stored)


def _copy(files: dict[str, Path], staged: Path) -> None:
    staged.mkdir(parents=True)
    for name, path in files.items():
        shutil.copyfile(path, staged / name)
        sync(staged / name)
        (staged / name).chmod(_READ_ONLY)
    sync(staged)


def _directory(model: Model) -> Path:
    """That of the version that adapters are examined against."""
    artifact = model.version(model.default_version).artifact
    assert artifact is not None
    return Path(artifact.directory)


def _drop_unused(staged: Path, format_: str) -> None:
    """Removes the weights of the other format, which the digest does not cover."""
    from mlxmesh_shared.lora.adapter_files import WEIGHTS

    for name in (name for other, name in WEIGHTS.items() if other != format_):
        (staged / name).unlink(missing_ok=True)


def _equal(one: Path, other: Path) -> bool:
    """Whether both directories have the same files."""
    mine, others = (sorted(path.name for path in each.iterdir()) for each in (one, other))
    return mine == others and all(cmp(one / name, other / name, shallow=False) for name in mine)


def _touch(directory: Path) -> None:
    """Marks when the files were last needed; see `Pruning`."""
    if directory.is_dir():
        os.utime(directory)
