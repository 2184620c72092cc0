"""The port of a model hub."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from mlxmesh_model.artifacts.progress import Progress
from mlxmesh_shared.artifacts.part_file import PartFile
from mlxmesh_shared.artifacts.remote_file import RemoteFile

Fetch = Callable[[PartFile, Progress], Awaitable[None]]
"""Downloads the rest of a file. Raises: HubUnavailable; OSError when it cannot be written."""


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model at one commit, with the files needed to serve it."""

    repo_id: str
    commit: str
    files: tuple[RemoteFile, ...]
    """One GGUF file, or the files of an mlx-lm model."""

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size_bytes for file in self.files)


class Hub(Protocol):
    """Where models are pulled from."""

    async def find(self, repo_id: str, revision: str, file: str = "") -> HubModel:
        """The files of a model; with `file`, only that one.

        Raises: SourceNotFound, HubUnavailable, InvalidArgument.
        """
        ...

    def fetching(self, model: HubModel) -> AbstractAsyncContextManager[Fetch]:
        """Downloads files of the model until the end of the block. A file that was interrupted is
        continued; the caller verifies it.
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

    def fetching(self, model: HubModel) -> AbstractAsyncContextManager[Fetch]:
        """Downloads files of the model; see the port."""
        return self._hub.fetching(model)
