"""Has the runtime of this host fetch the files of adapters."""

import asyncio
from pathlib import Path

from grpc import aio

from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh.runtime.v1 import runtime_pb2_grpc
from mlxmesh_engine.scheduling.request import AdapterSource

FETCH_TIMEOUT_S = 600.0


class AdapterFetch:
    """Finds the directory of an adapter on this host; made on the event loop."""

    def __init__(self, channel: aio.Channel) -> None:
        """channel: to the runtime; the caller closes it, which ends a fetch that is waited for."""
        self._stub = runtime_pb2_grpc.RuntimeServiceStub(channel)
        self._event_loop = asyncio.get_running_loop()

    def locate(self, source: AdapterSource) -> Path:
        """The directory with the adapter's files. Called on another thread, which it blocks.

        Raises: FetchFailed, DiskFull; any other MeshError.
        """
        directory = Path(source.directory)
        if directory.is_dir():
            return directory
        fetching = self._fetch(source.digest)
        return asyncio.run_coroutine_threadsafe(fetching, self._event_loop).result()

    async def _fetch(self, digest: str) -> Path:
        request = pb.FetchAdapterRequest(digest=digest)
        return Path((await self._stub.FetchAdapter(request, timeout=FETCH_TIMEOUT_S)).directory)
