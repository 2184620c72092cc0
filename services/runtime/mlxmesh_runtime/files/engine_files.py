"""The files of engines: where they are on this host, or are brought to it."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mlxmesh_runtime.engine_record import EngineSpec, ModelFiles
from mlxmesh_runtime.files.fetches import Fetches
from mlxmesh_runtime.files.file_fetch import Progress
from mlxmesh_runtime.files.held_files import HeldFiles
from mlxmesh_runtime.files.sources import Sources
from mlxmesh_runtime.files.wanted import Wanted
from mlxmesh_shared.artifacts.manifest import Manifest
from mlxmesh_shared.artifacts.threads import in_thread
from mlxmesh_shared.errors import (
    ArtifactNotFound,
    DeadlineExceeded,
    MethodNotFound,
    ServiceUnavailable,
)

_log = logging.getLogger(__name__)


class EngineFiles(Protocol):
    """Finds the files of engines."""

    def check(self, files: ModelFiles | None, model_dir: Path) -> None:
        """Raises: DiskFull when the files are not here and there is no room for them."""
        ...

    async def located(self, spec: EngineSpec) -> EngineSpec:
        """What to run with the directories that have the files; fetches what is not here.

        Raises: MeshError.
        """
        ...

    def progress(self, spec: EngineSpec) -> Progress | None:
        """How far the fetch of its files is; None if none runs."""
        ...


class FilesInPlace:
    """Every directory is used as it is."""

    def check(self, files: ModelFiles | None, model_dir: Path) -> None:
        """Nothing to check."""

    async def located(self, spec: EngineSpec) -> EngineSpec:
        """The same; see the port."""
        return spec

    def progress(self, spec: EngineSpec) -> Progress | None:
        """None."""
        return None


class FetchedEngineFiles:
    """Uses the model's own path where it has the same files, and the store of this host else."""

    def __init__(
        self, held: HeldFiles, sources: Sources, fetches: Fetches, *, shared_paths: bool = True
    ) -> None:
        """shared_paths: False to use only what was fetched."""
        self._held = held
        self._sources = sources
        self._fetches = fetches
        self._shared_paths = shared_paths
        self._told_before: dict[str, Manifest] = {}
        """By digest; an engine that is restarted does not wait for the model service."""

    def check(self, files: ModelFiles | None, model_dir: Path) -> None:
        """Only a rough check, so that another host is chosen at once; see the port."""
        if files is None or self._is_at_path(model_dir):
            return
        if self._held.stored_manifest(files.digest) is None:
            self._fetches.check_space(files.weights_bytes)

    async def located(self, spec: EngineSpec) -> EngineSpec:
        """What to run; see the port."""
        options = spec.options
        wanted = Wanted(spec.files.digest, spec.model, spec.model_version) if spec.files else None
        model_dir = await self._directory(spec.model_dir, wanted)
        if options.draft_dir is not None and spec.draft_files is not None:
            # The name of the draft model is not known here; that of its user is in the events.
            draft = Wanted(spec.draft_files.digest, spec.model, spec.model_version)
            directory = await self._directory(options.draft_dir, draft)
            options = replace(options, draft_model_dir=str(directory))
        return replace(spec, model_dir=model_dir, options=options)

    def progress(self, spec: EngineSpec) -> Progress | None:
        """How far it is; see the port."""
        digests = [each.digest for each in (spec.files, spec.draft_files) if each is not None]
        found = (self._fetches.progress(digest) for digest in digests)
        return next((each for each in found if each is not None), None)

    async def _directory(self, model_dir: Path, wanted: Wanted | None) -> Path:
        if wanted is None:
            return model_dir
        fetched = await in_thread(self._held.whole_directory, wanted.digest)
        if fetched is not None:
            return fetched
        manifest: Manifest | None = None
        if self._is_at_path(model_dir):
            known = self._told_before.get(wanted.digest)
            if known is not None and await in_thread(self._held.same_files, model_dir, known):
                return model_dir
            manifest = await self._told(wanted)
            if manifest is None or await in_thread(self._held.same_files, model_dir, manifest):
                return model_dir
        return await self._fetches.fetch(wanted, manifest)

    def _is_at_path(self, model_dir: Path) -> bool:
        return self._shared_paths and (model_dir / "config.json").is_file()

    async def _told(self, wanted: Wanted) -> Manifest | None:
        """The files; None if nobody can tell, so that what is at the path has to do.

        Raises: ModelFilesDamaged.
        """
        try:
            manifest = await self._sources.manifest(wanted.digest)
        except (ServiceUnavailable, DeadlineExceeded, ArtifactNotFound, MethodNotFound) as error:
            _log.warning("the files of %s are not compared: %s", wanted.label, error.message)
            return None
        self._told_before[wanted.digest] = manifest
        return manifest
