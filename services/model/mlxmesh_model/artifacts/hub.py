"""A hub to pull models from, as the catalogue sees it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from mlxmesh_model.artifacts.part_file import HubFile


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model at one commit, with the files that serving needs."""

    repo_id: str
    commit: str
    files: tuple[HubFile, ...]
    """One GGUF file, or those of an mlx-lm model."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def sha256_by_name(self) -> Mapping[str, str]:
        """The SHA-256 of each file for which the hub tells it."""
        return {file.name: file.sha256 for file in self.files if file.sha256}


@dataclass(slots=True)
class Progress:
    """How far a download is; written by it, read by whoever waits."""

    done_bytes: int = 0
    total_bytes: int = 0
    file: str = ""


class Hub(Protocol):
    """Where models are pulled from."""

    async def find(self, repo_id: str, revision: str, file: str = "") -> HubModel:
        """What is there; with a file, that alone.

        Raises: SourceNotFound, HubUnavailable, InvalidArgument.
        """
        ...

    async def download(self, model: HubModel, directory: Path, progress: Progress) -> None:
        """Brings every file into a directory, each verified; cancelled or failed, what is there
        stays, and the next call goes on from it, but removes what is not of its commit.
        Raises: HubUnavailable.
        """
        ...


class HubOnDemand:
    """A hub that is opened, with the libraries that it needs, when something is first pulled."""

    def __init__(self, open_hub: Callable[[], Hub]) -> None:
        self._open = open_hub

    @cached_property
    def _hub(self) -> Hub:
        return self._open()

    async def find(self, repo_id: str, revision: str, file: str = "") -> HubModel:
        """What is there; see the port."""
        return await self._hub.find(repo_id, revision, file)

    async def download(self, model: HubModel, directory: Path, progress: Progress) -> None:
        """Brings every file into a directory; see the port."""
        await self._hub.download(model, directory, progress)
