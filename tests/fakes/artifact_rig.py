"""The parts of the model service that store files, on a real catalogue and a hub on loopback."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_model.artifacts.gguf_process import Converter, convert_gguf
from mlxmesh_model.artifacts.huggingface import HuggingFaceHub
from mlxmesh_model.artifacts.imports import Imports
from mlxmesh_model.artifacts.inventory import Inventory
from mlxmesh_model.artifacts.pruning import Pruning
from mlxmesh_model.artifacts.pulls import Pulls
from mlxmesh_model.artifacts.verification import Verification
from mlxmesh_model.catalogue.models import Version
from mlxmesh_model.catalogue.schema import CATALOGUE
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.artifacts.disk import Disk
from mlxmesh_shared.sql.urls import SqliteFile
from tests.fakes.databases import sqlite_with_tables


@dataclass(frozen=True)
class ArtifactRig:
    """One process's view of a store; several may share a directory."""

    store: Store
    blobs: BlobStore
    pulls: Pulls
    imports: Imports
    pruning: Pruning
    inventory: Inventory
    verification: Verification

    async def pull(self, repo_id: str, name: str = "pocket", **fields: str) -> Version:
        """Pulls to the end."""
        steps = self.pulls.pull(repo_id, "main", name, **fields)
        versions = [step.version async for step in steps]
        assert versions[-1] is not None
        return versions[-1]

    async def import_file(self, name: str, path: Path) -> Version:
        """Imports to the end."""
        versions = [step.version async for step in self.imports.import_file(name, path, "")]
        assert versions[-1] is not None
        return versions[-1]

    async def recover(self) -> None:
        """What a start of the service does."""
        await self.pulls.recover()
        await self.imports.recover()


@asynccontextmanager
async def artifact_rig(
    home: Path, endpoint: str, disk: Disk | None = None, convert: Converter = convert_gguf
) -> AsyncGenerator[ArtifactRig]:
    """The parts on the catalogue `home/model.db` and the store `home/models`."""
    catalogue = SqliteFile(home / "model.db")
    if not catalogue.path.exists():
        sqlite_with_tables(catalogue.path, CATALOGUE)
    store = await Store.open(catalogue)
    blobs = BlobStore(home / "models", disk)
    pruning = Pruning(store=store, blobs=blobs)
    hub = HuggingFaceHub(endpoint, attempts=2, pause_s=0.01)
    try:
        yield ArtifactRig(
            store=store,
            blobs=blobs,
            pulls=Pulls(store=store, hub=hub, blobs=blobs, pruning=pruning),
            imports=Imports(store=store, blobs=blobs, convert=convert),
            pruning=pruning,
            inventory=Inventory(store=store, blobs=blobs, pruning=pruning),
            verification=Verification(store=store, blobs=blobs),
        )
    finally:
        await store.close()
