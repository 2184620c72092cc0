"""The processes of the mesh that can send files, and calls to them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Protocol

from mlxmesh.artifact.v1 import transfer_pb2 as pb
from mlxmesh.artifact.v1 import transfer_pb2_grpc
from mlxmesh_shared.artifacts.convert import from_manifest
from mlxmesh_shared.artifacts.manifest import Manifest
from mlxmesh_shared.artifacts.remote_file import RemoteFile
from mlxmesh_shared.errors import DeadlineExceeded, FetchFailed, MeshError, ServiceUnavailable
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, ChannelPool, OpenChannel, open_channel

_ASK_TIMEOUT_S = 2.0
_MANIFEST_TIMEOUT_S = 600.0
"""A registered directory is read once before its files are known."""
SILENCE_S = 10.0
"""A source that sends nothing, or less than LEAST_BYTES_PER_S, for so long is left."""
LEAST_BYTES_PER_S = 32 * 1024


class Role(StrEnum):
    """The service that a source is an instance of."""

    MODEL = "model"
    RUNTIME = "runtime"


@dataclass(frozen=True, slots=True)
class Source:
    """A process that may have files."""

    role: Role
    address: str


class Sources(Protocol):
    """Where files come from."""

    async def manifest(self, digest: str) -> Manifest:
        """The files of a digest. Raises: MeshError when no process tells them."""
        ...

    async def ahead(self, file: RemoteFile, have_bytes: int) -> Sequence[Source]:
        """The runtimes that have more of a file than this one, those with the most first."""
        ...

    async def origins(self) -> Sequence[Source]:
        """The model services. Raises: MeshError."""
        ...

    def read(
        self, source: Source, file: RemoteFile, digest: str, offset: int
    ) -> AsyncGenerator[bytes]:
        """The bytes of a file from an offset on, as far as the source has them.

        Raises: DeadlineExceeded when the source is too slow; MeshError.
        """
        ...


class MeshSources:
    """Finds the sources in the registry and calls them by TransferService."""

    def __init__(
        self,
        registry: Registry,
        *,
        instance_id: str,
        open_: OpenChannel = open_channel,
        silence_s: float = SILENCE_S,
    ) -> None:
        """silence_s: how long to wait for the next bytes of a source."""
        self._registry = registry
        self._silence_s = silence_s
        self._instance_id = instance_id
        # A source that is slow is better than a transfer that begins again.
        self._channels = {
            role: ChannelPool(partial(open_, role=role.value, timeouts=LONG_TIMEOUTS))
            for role in Role
        }

    async def close(self) -> None:
        """Closes the channels."""
        for channels in self._channels.values():
            await channels.close()

    async def manifest(self, digest: str) -> Manifest:
        """The model service's, or that of a runtime which has fetched the files; see the port."""
        error: MeshError = FetchFailed("no model service is registered")
        for source in (*await self.origins(), *await self._runtimes()):
            request = pb.GetManifestRequest(digest=digest)
            timeout_s = _MANIFEST_TIMEOUT_S if source.role is Role.MODEL else _ASK_TIMEOUT_S
            try:
                found = await self._stub(source).GetManifest(request, timeout=timeout_s)
                return from_manifest(digest, found)
            except MeshError as failure:
                # What a model service says is more to the point than that a runtime has nothing.
                error = failure if source.role is Role.MODEL else error
        raise error

    async def ahead(self, file: RemoteFile, have_bytes: int) -> Sequence[Source]:
        """The runtimes that have more of a file; see the port."""
        runtimes = await self._runtimes()
        sizes = await asyncio.gather(*(self._available(each, file) for each in runtimes))
        found = [(size, each) for size, each in zip(sizes, runtimes, strict=True)]
        found = [(size, each) for size, each in found if size > have_bytes]
        return [each for _, each in sorted(found, key=lambda one: -one[0])]

    async def origins(self) -> Sequence[Source]:
        """The model services; see the port."""
        return [Source(Role.MODEL, each.address) for each in await self._registry.resolve("model")]

    async def read(
        self, source: Source, file: RemoteFile, digest: str, offset: int
    ) -> AsyncGenerator[bytes]:
        """The bytes of a file; see the port."""
        request = pb.ReadFileRequest(sha256=file.sha256, offset=offset, digest=digest)
        call = self._stub(source).ReadFile(request)
        try:
            async with aclosing(_in_time(aiter(call), self._silence_s)) as responses:
                async for response in responses:
                    if response.offset != offset or not response.data:
                        raise ServiceUnavailable(f"{source.address} sent another part of the file")
                    offset += len(response.data)
                    yield response.data
        finally:
            call.cancel()

    async def _runtimes(self) -> list[Source]:
        present: Sequence[Instance] = await self._registry.resolve("runtime")
        others = [each for each in present if each.instance_id != self._instance_id]
        return [Source(Role.RUNTIME, each.address) for each in others]

    async def _available(self, source: Source, file: RemoteFile) -> int:
        request = pb.GetAvailabilityRequest(sha256=file.sha256)
        try:
            found = await self._stub(source).GetAvailability(request, timeout=_ASK_TIMEOUT_S)
        except MeshError:
            return 0
        return min(found.available_bytes, file.size_bytes)

    def _stub(self, source: Source) -> transfer_pb2_grpc.TransferServiceStub:
        return transfer_pb2_grpc.TransferServiceStub(
            self._channels[source.role].get(source.address)
        )


async def _in_time(
    responses: AsyncIterator[pb.ReadFileResponse], silence_s: float
) -> AsyncGenerator[pb.ReadFileResponse]:
    """The responses. Raises: DeadlineExceeded when they do not come in time."""
    clock = asyncio.get_running_loop().time
    waited_s, received = 0.0, 0  # in the present period of at least silence_s
    while True:
        begin_s = clock()
        try:
            async with asyncio.timeout(silence_s):
                response = await anext(responses)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineExceeded(f"the source sent nothing for {silence_s:g} s") from None
        waited_s += clock() - begin_s
        received += len(response.data)
        if waited_s >= silence_s:
            if received < LEAST_BYTES_PER_S * waited_s:
                raise DeadlineExceeded(f"the source sent {received} bytes in {waited_s:.1f} s")
            waited_s, received = 0.0, 0
        yield response
