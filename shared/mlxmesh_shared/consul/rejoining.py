"""Has the agent of this host join Consul servers again that its gossip counts as failed.

After a long partition the agents themselves try that only every 30 s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

from mlxmesh_shared.consul.agent import ConsulAgent
from mlxmesh_shared.errors import RegistryUnavailable
from mlxmesh_shared.host.host_port import split_host_port

INTERVAL_S = 2.0
# While there is no leader: a server is back this long after it can be reached, at the latest.
RETRY_S = 1.0
_CONNECT_TIMEOUT_S = 1.0


async def keep_joined(
    agent: ConsulAgent,
    prefix: str,
    own: Callable[[], Collection[str]],
    interval_s: float = INTERVAL_S,
) -> None:
    """Runs until cancelled, and does something only while the agent knows of no leader.

    Of the processes of a host only the one with the first service does: the agent takes one join
    at a time.

    prefix, own: of the ids of the mesh's services; those of this process.
    """
    while True:
        await asyncio.sleep(interval_s)
        while not await agent.has_leader():
            with contextlib.suppress(RegistryUnavailable):  # logged; it is away, or forbids that
                await _join_failed(agent, prefix, own())
            await asyncio.sleep(min(interval_s, RETRY_S))


async def _join_failed(agent: ConsulAgent, prefix: str, own: Collection[str]) -> None:
    failed = await agent.failed_servers()
    if not failed:
        return
    services = await agent.passing_services()
    if min((one for one in services if one.startswith(prefix)), default="") in own:
        for address in failed:
            # A join that began while the network was cut would last 10 s, whatever happens then.
            if await _is_reached(address):
                await agent.join(address)


async def _is_reached(address: str) -> bool:
    host, port = split_host_port(address)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True
