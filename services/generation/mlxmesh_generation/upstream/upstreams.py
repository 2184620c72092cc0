"""The upstreams that this process calls: one client, one breaker and one queue each."""

from __future__ import annotations

from collections.abc import Iterator

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.upstream import Upstream
from mlxmesh_generation.upstream.places import Places
from mlxmesh_shared.errors import QueueFull, UpstreamUnavailable
from mlxmesh_shared.openai_upstream.address import KeyReference
from mlxmesh_shared.openai_upstream.client import Upstream as Server
from mlxmesh_shared.openai_upstream.client import UpstreamClient, UpstreamLimits
from mlxmesh_shared.resilience.breaker import Breaker

DEFAULT_LIMITS = UpstreamLimits()
WAITING_PER_PLACE = 4
"""How many requests of a tier may wait for each that runs."""
_QUEUE_RETRY_S = 1.0


class Connection:
    """What all requests to one upstream share."""

    def __init__(self, version: ModelVersion, upstream: Upstream, limits: UpstreamLimits) -> None:
        self.breaker = Breaker(is_failure=lambda error: isinstance(error, UpstreamUnavailable))
        self.client = UpstreamClient(
            Server(name=str(version), base_url=upstream.base_url, key=KeyReference(upstream.key)),
            limits,
        )
        self._name = str(version)
        self._max_concurrent = upstream.max_concurrent
        self.places = Places(upstream.max_concurrent)

    def check(self, *, flex: bool) -> None:
        """Raises: UpstreamUnavailable while its breaker is open; QueueFull. flex: its tier."""
        if not self.breaker.ready:
            raise UpstreamUnavailable(
                f"the upstream of {self._name} failed too often and is given a pause",
                retry_delay_s=self.breaker.retry_in_s,
            )
        waiting = self.places.waiting(flex=flex)
        if waiting >= self._max_concurrent * WAITING_PER_PLACE:
            raise QueueFull(
                f"{waiting} requests wait for the upstream of {self._name} already",
                retry_delay_s=_QUEUE_RETRY_S,
            )


class Upstreams:
    """Opens a connection for each upstream that is used."""

    def __init__(self, limits: UpstreamLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._connections: dict[tuple[str, Upstream], Connection] = {}

    def of(self, version: ModelVersion, upstream: Upstream) -> Connection:
        """The connection of a version's upstream."""
        key = str(version), upstream
        if key not in self._connections:
            self._connections[key] = Connection(version, upstream, self._limits)
        return self._connections[key]

    def breakers(self) -> Iterator[Breaker]:
        """Those of all upstreams."""
        return (each.breaker for each in self._connections.values())

    async def close(self) -> None:
        """Closes every connection."""
        for connection in self._connections.values():
            await connection.client.close()
