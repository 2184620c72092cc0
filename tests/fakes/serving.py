"""A server that ends with the body, also with one that fails."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mlxmesh_shared.rpc.server import MeshServer


@asynccontextmanager
async def serving(server: MeshServer) -> AsyncGenerator[str]:
    """Starts the server and yields its address; it is NOT_SERVING until the body changes that.

    A grpc.aio server that is left running fails whichever test runs when it is freed.
    """
    address = await server.start()
    try:
        yield address
    finally:
        await server.drain(grace_s=0, settle_s=0)
