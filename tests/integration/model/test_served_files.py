"""The files of the catalogue that other hosts may fetch, on a real catalogue and a real disk."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlxmesh.model.v1 import artifact_pb2
from mlxmesh_model.artifacts.folder import inspect
from mlxmesh_model.artifacts.served_files import CatalogueFiles
from mlxmesh_model.artifacts.stored_directory import ADAPTERS
from mlxmesh_model.catalogue.models import Artifact
from mlxmesh_shared.artifacts.known_digests import KnownDigests
from mlxmesh_shared.artifacts.manifest import FileIdentity
from mlxmesh_shared.errors import ArtifactNotFound, ModelFilesDamaged
from tests.fakes.artifact_rig import ArtifactRig, artifact_rig
from tests.fakes.gguf_files import Shape, write_gguf
from tests.fakes.model_directory import write_model
from tests.fakes.runtime import FakeRuntime
from tests.integration.model.conftest import Mesh, ModelService


@dataclass
class Rig:
    artifacts: ArtifactRig
    known: KnownDigests
    files: CatalogueFiles
    tmp_path: Path

    async def register(self) -> Artifact:
        directory = write_model(self.tmp_path / "pocket")
        artifact = inspect(directory, sha256_of=self.known.sha256)
        await self.artifacts.store.register("pocket", artifact)
        return artifact


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with artifact_rig(tmp_path, "http://127.0.0.1:9") as artifacts:
        known = KnownDigests(tmp_path / "known.json")
        files = CatalogueFiles(store=artifacts.store, blobs=artifacts.blobs, known=known)
        yield Rig(artifacts, known, files, tmp_path)


async def test_the_files_of_a_registered_directory(rig: Rig) -> None:
    artifact = await rig.register()
    manifest = await rig.files.manifest(artifact.digest)
    assert manifest.is_of_version
    for file in manifest.files:
        path = Path(artifact.directory) / file.name
        assert file.identity == FileIdentity.of(path.stat())
        found = await rig.files.find(file.sha256)
        assert found is not None
        assert (found.path, found.size_bytes) == (path, path.stat().st_size)


async def test_a_service_that_was_restarted_finds_files_by_the_digest_of_their_version(
    rig: Rig,
) -> None:
    artifact = await rig.register()
    manifest = await rig.files.manifest(artifact.digest)
    known = KnownDigests(rig.tmp_path / "known.json")
    files = CatalogueFiles(store=rig.artifacts.store, blobs=rig.artifacts.blobs, known=known)
    sha256 = manifest.files[0].sha256
    assert await files.find(sha256) is None
    assert await files.find(sha256, artifact.digest) is not None


async def test_a_directory_that_was_changed_is_refused(rig: Rig) -> None:
    artifact = await rig.register()
    manifest = await rig.files.manifest(artifact.digest)
    changed = Path(artifact.directory) / "config.json"
    found = changed.stat()
    text = changed.read_text()
    changed.write_text(text.replace("4", "5", 1))
    assert changed.stat().st_size == found.st_size
    os.utime(changed, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    with pytest.raises(ModelFilesDamaged, match=r"pocket@1 in .* differ from those that were"):
        await rig.files.manifest(artifact.digest)
    [config] = [file for file in manifest.files if file.name == "config.json"]
    with pytest.raises(ModelFilesDamaged, match=r"config\.json has changed"):
        await rig.files.find(config.sha256, artifact.digest)
    changed.write_text(text)
    assert (await rig.files.manifest(artifact.digest)).digests == manifest.digests


async def test_a_directory_that_is_gone_is_refused(rig: Rig) -> None:
    artifact = await rig.register()
    Path(artifact.directory).rename(rig.tmp_path / "elsewhere")
    with pytest.raises(ModelFilesDamaged, match="restore them, or register"):
        await rig.files.manifest(artifact.digest)


async def test_the_files_of_an_imported_version_come_from_the_store(rig: Rig) -> None:
    version = await rig.artifacts.import_file(
        "gguf", write_gguf(rig.tmp_path / "tiny.gguf", Shape())
    )
    assert version.artifact is not None
    manifest = await rig.files.manifest(version.artifact.digest)
    assert manifest.is_of_version
    for file in manifest.files:
        found = await rig.files.find(file.sha256)
        assert found is not None
        assert found.path == rig.artifacts.blobs.blob(file.sha256)


async def test_the_files_of_an_adapter(rig: Rig) -> None:
    directory = rig.artifacts.blobs.models_dir / ADAPTERS / ("a" * 64)
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text("{}")
    (directory / "adapters.safetensors").write_bytes(b"weights")
    manifest = await rig.files.manifest("a" * 64)
    assert [file.name for file in manifest.files] == ["adapter_config.json", "adapters.safetensors"]
    found = await rig.files.find(manifest.files[1].sha256)
    assert found is not None
    assert found.size_bytes == len(b"weights")


async def test_an_unknown_digest(rig: Rig) -> None:
    with pytest.raises(ArtifactNotFound):
        await rig.files.manifest("0" * 64)
    assert await rig.files.find("0" * 64) is None


async def test_a_prune_reaches_the_runtimes(mesh: Mesh, service: ModelService) -> None:
    hosts = [await mesh.host(), await mesh.host(FakeRuntime("runtime-2"))]
    registered = await service.register()
    pruned = await service.artifacts.PruneArtifacts(
        artifact_pb2.PruneArtifactsRequest(dry_run=True)
    )
    assert (pruned.files, pruned.fetched_files, pruned.fetched_bytes) == (0, 4, 4000)
    for host in hosts:
        [request] = host.runtime.prunes
        assert request.dry_run
        assert list(request.needed_digests) == [registered.model.versions[0].digest]
