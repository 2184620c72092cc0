"""A server with TLS in a process of its own: python -m tests.fakes.tls_server DIRECTORY."""

import asyncio
import sys
from pathlib import Path

from mlxmesh.engine.v1 import engine_pb2
from mlxmesh_shared.process.startup import wait_for_stop
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.tls import ServerTls
from tests.fakes.certificates import source

SERVICE = engine_pb2.DESCRIPTOR.services_by_name["EngineService"].full_name


async def serve(tls_dir: Path) -> None:
    """Tells its address on stdout and serves nothing but handshakes until its stdin ends."""
    tls = ServerTls(source(tls_dir, "engine"))
    server = MeshServer(services=(), service_names=[SERVICE], tls=tls)
    print(await server.start(), flush=True)
    await wait_for_stop()
    await server.drain(grace_s=0, settle_s=0)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
