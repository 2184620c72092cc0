"""Has the agent of this host connect again to Consul servers that it counts as failed.

After a long partition the agents' own gossip does that only every 30 s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

from mlxmesh_shared.consul.agent import ConsulAgent
from mlxmesh_shared.errors import RegistryUnavailable

INTERVAL_S = 1.0


async def keep_joined(
    agent: ConsulAgent,
    prefix: str,
    own: Callable[[], Collection[str]],
    interval_s: float = INTERVAL_S,
) -> None:
    """Runs until cancelled, and does something only while the agent does not answer queries.

    Of the processes of a host only the one with the first service does, because the agent takes
    one join at a time, each of which lasts up to 10 s while the network is cut.

    prefix, own: of the ids of the mesh's services; those of this process.
    """
    while True:
        await asyncio.sleep(interval_s)
        if agent.fails:
            with contextlib.suppress(RegistryUnavailable):  # logged; it is away, or forbids that
                await _join_failed(agent, prefix, own())


async def _join_failed(agent: ConsulAgent, prefix: str, own: Collection[str]) -> None:
    failed = await agent.failed_servers()
    if not failed:
        return
    services = await agent.passing_services()
    if min((one for one in services if one.startswith(prefix)), default="") in own:
        for address in failed:
            await agent.join(address)
