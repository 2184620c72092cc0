"""The least that a process with gRPC does: an aio server without services, and nothing else.

    .venv/bin/python -m tests.bench.bare_grpc

Runs until its stdin ends.
"""

from __future__ import annotations

import asyncio
import sys

from mlxmesh_shared.rpc.grpc_threads import use_fewer_threads


async def main() -> None:
    """Listens on a free port of the loopback address."""
    from grpc import aio

    server = aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    use_fewer_threads()
    asyncio.run(main())
