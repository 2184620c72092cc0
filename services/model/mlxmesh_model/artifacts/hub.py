"""The port of a hub that models are pulled from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from mlxmesh_model.artifacts.part_file import HubFile
from mlxmesh_model.artifacts.progress import Progress


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model at one commit, with the files needed to serve it."""

    repo_id: str
    commit: str
    files: tuple[HubFile, ...]
    """One GGUF file, or the files of an mlx-lm model."""

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def sha256_by_name(self) -> Mapping[str, str]:
        """The SHA-256 of each file for which the hub reports one."""
        return {file.name: file.sha256 for file in self.files if file.sha256}


class Hub(Protocol):
    """Where models are pulled from."""

    async def find(self, repo_id: str, revision: str, file: str = "") -> HubModel:
        """The files of a model; with `file`, only that one.

        Raises: SourceNotFound, HubUnavailable, InvalidArgument.
        """
        ...

    async def download(self, model: HubModel, directory: Path, progress: Progress) -> None:
        """Downloads every file into a directory and verifies it. After a cancelled or failed call,
        the next one continues from the files that exist, and removes those of other commits.
        Raises: HubUnavailable.
        """
        ...


class HubOnDemand:
    """A hub that is opened on first use, because its libraries are slow to import."""

    def __init__(self, open_hub: Callable[[], Hub]) -> None:
        self._open = open_hub

    @cached_property
    def _hub(self) -> Hub:
        return self._open()

    async def find(self, repo_id: str, revision: str, file: str = "") -> HubModel:
        """The files of a model; see the port."""
        return await self._hub.find(repo_id, revision, file)

    async def download(self, model: HubModel, directory: Path, progress: Progress) -> None:
        """Downloads every file into a directory; see the port."""
        await self._hub.download(model, directory, progress)
