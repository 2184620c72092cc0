"""Hosts that send files to each other over real gRPC: a model service's, and runtimes'."""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import Message

from mlxmesh.artifact.v1.transfer_pb2_grpc import add_TransferServiceServicer_to_server
from mlxmesh_runtime.files.fetches import Fetches, FetchLimits
from mlxmesh_runtime.files.held_files import HeldFiles
from mlxmesh_runtime.files.sources import SILENCE_S, MeshSources
from mlxmesh_runtime.files.wanted import Wanted
from mlxmesh_shared.artifacts.digests import digest_of, sha256
from mlxmesh_shared.artifacts.disk import Disk
from mlxmesh_shared.artifacts.local_file import CHUNK_BYTES, LocalFile
from mlxmesh_shared.artifacts.manifest import Manifest, ManifestFile
from mlxmesh_shared.artifacts.servicer import SERVICE, TransferServicer
from mlxmesh_shared.artifacts.uploads import Uploads
from mlxmesh_shared.errors import ArtifactNotFound
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.registry.port import Registry
from mlxmesh_shared.rpc.server import MeshServer
from tests.fakes.lying_source import LyingSource

MODEL_BYTES = 8 * CHUNK_BYTES


def write_files(folder: Path, *, weights_bytes: int = MODEL_BYTES, seed: int = 1) -> Path:
    """A directory with the names of a model's files, and random bytes."""
    folder.mkdir(parents=True)
    generator = random.Random(seed)
    (folder / "config.json").write_text('{"model_type": "fake"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(generator.randbytes(weights_bytes))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


def manifest_of(folder: Path) -> Manifest:
    """The files of a directory, and the digest of the version that they are."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = tuple(
        ManifestFile(str(path.relative_to(folder)), path.stat().st_size, sha256(path))
        for path in paths
    )
    return Manifest(digest_of({file.name: file.sha256 for file in files}), files)


def content(folder: Path) -> Mapping[str, bytes]:
    """The files of a directory, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True, slots=True)
class _Gated(LocalFile):
    """A file whose reading stops at a byte while a gate is closed."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    stop_at: int = 0

    async def chunks(self, file: BinaryIO, offset: int) -> AsyncGenerator[tuple[int, bytes]]:
        async with aclosing(LocalFile.chunks(self, file, offset)) as chunks:
            async for at, data in chunks:
                if at + len(data) > self.stop_at:
                    await self.gate.wait()
                yield at, data


class Origin:
    """Implements `ServedFiles` with directories; a test may hold large files at a byte."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}
        self.manifests: dict[str, Manifest] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.stop_at = 0

    def add(self, folder: Path, digest: str = "") -> Manifest:
        """Serves a directory under its digest, or under another one as that of an adapter."""
        manifest = manifest_of(folder)
        manifest = Manifest(digest or manifest.digest, manifest.files)
        self.folders[manifest.digest] = folder
        self.manifests[manifest.digest] = manifest
        return manifest

    def hold(self, stop_at: int) -> None:
        """From now on nothing of a large file is sent after a byte, until the gate is set."""
        self.gate.clear()
        self.stop_at = stop_at

    async def manifest(self, digest: str) -> Manifest:
        if digest not in self.manifests:
            raise ArtifactNotFound("no such digest")
        return self.manifests[digest]

    async def find(self, sha256: str, digest: str = "") -> LocalFile | None:
        for each, folder in self.folders.items():
            for file in self.manifests[each].files:
                if file.sha256 == sha256:
                    path = folder / file.name
                    if file.size_bytes < CHUNK_BYTES:
                        return LocalFile(path, file.size_bytes)
                    return _Gated(path, file.size_bytes, gate=self.gate, stop_at=self.stop_at)
        return None


class Served:
    """A process that sends files."""

    def __init__(self, registry: Registry, service: str, instance_id: str) -> None:
        self.uploads = Uploads()
        self._registry = registry
        self._service = service
        self._instance_id = instance_id
        self._server: MeshServer | None = None
        self._instance: Instance | None = None

    async def start(self, files: Origin | HeldFiles | LyingSource) -> "Served":
        is_liar = isinstance(files, LyingSource)
        servicer = files if is_liar else TransferServicer(files, self.uploads)
        server = MeshServer(
            services=[(add_TransferServiceServicer_to_server, servicer)],
            service_names=[SERVICE],
            name=self._service,
        )
        address = await server.start()
        self._server = server
        self._instance = Instance(self._service, self._instance_id, address, 1)
        await self._registry.register(self._instance)
        return self

    async def stop(self) -> None:
        """Ends all calls at once, as the end of a process does."""
        if self._server is not None and self._instance is not None:
            await self._registry.deregister(self._instance)
            await self._server.drain(grace_s=0, settle_s=0)
            self._server = None


class Host:
    """A runtime's part that fetches and sends files."""

    def __init__(
        self,
        registry: Registry,
        data_dir: Path,
        *,
        disk: Disk | None = None,
        limits: FetchLimits | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        name = f"runtime-{data_dir.name}"
        self.events: list[Message] = []
        self.held = HeldFiles(data_dir, disk)
        self.sources = MeshSources(registry, instance_id=name, silence_s=silence_s)
        self.fetches = Fetches(
            self.held,
            self.sources,
            runtime_id=name,
            limits=limits or FetchLimits(stall_s=5),
            publish=self._publish,
        )
        self.served = Served(registry, "runtime", name)

    def _publish(self, payload: Message, correlation_id: str = "") -> None:
        self.events.append(payload)

    async def fetch(self, manifest: Manifest) -> Path:
        """The directory of a version on this host."""
        return await self.fetches.fetch(Wanted(manifest.digest, "tiny", 1))

    async def close(self) -> None:
        await self.served.stop()
        await self.sources.close()


class Network:
    """One registry, an origin and hosts; closed with the stack."""

    def __init__(self, tmp_path: Path, registry: Registry, stack: AsyncExitStack) -> None:
        self.tmp_path = tmp_path
        self.registry = registry
        self._stack = stack

    async def origin(self, files: Origin, name: str = "model-1") -> Served:
        """A model service."""
        served = await Served(self.registry, "model", name).start(files)
        self._stack.push_async_callback(served.stop)
        return served

    async def source(self, service: str, source: LyingSource, name: str = "liar") -> LyingSource:
        """A process that breaks the contract."""
        served = await Served(self.registry, service, f"{service}-{name}").start(source)
        self._stack.push_async_callback(served.stop)
        return source

    async def host(
        self,
        name: str,
        *,
        disk: Disk | None = None,
        limits: FetchLimits | None = None,
        silence_s: float = SILENCE_S,
    ) -> Host:
        """A runtime on another host; with the name of an earlier one it has its disk."""
        data_dir = self.tmp_path / name
        host = Host(self.registry, data_dir, disk=disk, limits=limits, silence_s=silence_s)
        await host.served.start(host.held)
        self._stack.push_async_callback(host.close)
        return host
