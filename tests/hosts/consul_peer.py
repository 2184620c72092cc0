"""A process that registers instances and follows all of them: python -m THIS ADDRESS NAME.

Each line of standard input is the name of another instance to register. Each set of names that it
sees is a line of its output, as JSON, with the time of the machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from mlxmesh_shared.registry.consul import ConsulRegistry
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import ConsulSettings

SERVICE = "engine"


async def follow(registry: ConsulRegistry) -> None:
    async for instances in registry.watch(SERVICE):
        names = [one.instance_id for one in instances]
        print(json.dumps([time.monotonic(), names]), flush=True)


async def main(address: str, name: str) -> None:
    server = MeshServer(listen=f"{address}:0", services=(), service_names=())
    await server.start()
    await server.set_serving()
    registry = ConsulRegistry(ConsulSettings.model_validate({"address": "127.0.0.1:8500"}))
    following = asyncio.create_task(follow(registry))
    while name:
        await registry.register(Instance(SERVICE, name, server.address, 1))
        name = (await asyncio.to_thread(sys.stdin.readline)).strip()
    following.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
