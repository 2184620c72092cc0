"""A process that only says how it is, by gRPC health."""

import contextlib
from collections.abc import AsyncIterator

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


@contextlib.asynccontextmanager
async def healthy(address: str) -> AsyncIterator[str]:
    """Serves SERVING at the address (port 0 takes a free one), and yields it with its port."""
    server = aio.server()
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
