"""The instances behind the gateway, and which of them is the least loaded."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial

from mlxmesh_gateway.forwarding.endpoint import (
    RELAY_WINDOW_BYTES,
    WINDOW_BYTES,
    Endpoint,
    offers_relay,
)
from mlxmesh_shared.errors import EngineLost, Internal, MeshError, NotStarted, ServiceUnavailable
from mlxmesh_shared.events import Publish, discard_event
from mlxmesh_shared.registry import Instance, Registry, follow_service
from mlxmesh_shared.registry.convert import breaker_change
from mlxmesh_shared.rendezvous import rendezvous_weight
from mlxmesh_shared.resilience.breaker import Breaker, BreakerState
from mlxmesh_shared.resilience.retries import RetryBudget
from mlxmesh_shared.rpc.channels import OpenChannel, open_channel

_MISSING = {
    "access": "no access service is running: this mesh has no users yet, or it is away;"
    " `mlxmesh users create NAME --admin` on its host starts it",
    "jobs": "no jobs service is running: this mesh has had no jobs yet, or it is away;"
    " `mlxmesh jobs start` on its host starts it",
    "tools": "no tools service is running: this mesh has had no MCP servers yet, or it is away;"
    " `mlxmesh mcp add` starts it",
}
Place = tuple[str, str]
"""An instance's id and address: together they identify one run of a process."""
OnChange = Callable[[str, bool], Awaitable[None]]
"""Called with a backend's name, and whether an instance of it is registered."""


class Backends:
    """The endpoints of each backend, as the registry last listed them, and their order.

    An empty or failed answer of the registry removes no endpoint: a failing registry must not stop
    healthy instances.
    """

    def __init__(
        self,
        registry: Registry,
        services: Sequence[str],
        *,
        on_change: OnChange,
        open_: OpenChannel = open_channel,
        publish: Publish = discard_event,
    ) -> None:
        self._registry = registry
        self._publish = publish
        self._on_change = on_change
        self._open = open_
        self._endpoints: dict[str, dict[Place, Endpoint]] = {name: {} for name in services}
        self._known = {name: asyncio.Event() for name in services}
        self._budgets = {name: RetryBudget() for name in services}
        self._watches: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Reads the registered instances, then follows every change until closed."""
        for service in self._endpoints:
            await self._update(service, await self._registry.resolve(service))
        self._watches = [
            asyncio.create_task(follow_service(self._registry, name, partial(self._update, name)))
            for name in self._endpoints
        ]

    async def stop_following(self) -> None:
        """Keeps the endpoints of now."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def close(self) -> None:
        """Stops following and closes every channel."""
        await self.stop_following()
        for endpoints in self._endpoints.values():
            for endpoint in endpoints.values():
                await endpoint.close()

    def all(self, service: str) -> tuple[Endpoint, ...]:
        """Every endpoint of a service. Raises ServiceUnavailable when there is none."""
        endpoints = tuple(self._endpoints[service].values())
        if not endpoints:
            raise _missing(service)
        return endpoints

    def has(self, service: str) -> bool:
        """Whether an instance of the service was ever registered."""
        return bool(self._endpoints[service])

    async def until_known(self, service: str) -> None:
        """Waits for the first instance of a service."""
        await self._known[service].wait()

    def by_preference(self, service: str, *, may_try: bool = True) -> list[Endpoint]:
        """Every endpoint, the best first: one to probe, the healthy ones, the ejected ones.

        Among equals, the least loaded one comes first. A call that cannot be repeated is no probe.
        No endpoint is left out: a bad one is better than none.

        Raises ServiceUnavailable when there is none.
        """
        return sorted(self.all(service), key=lambda one: (_rank(one, may_try), one.outstanding))

    def retry_budget(self, service: str) -> RetryBudget:
        """The budget of a service's retries and hedges."""
        return self._budgets[service]

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every endpoint of every service."""
        return tuple(one for group in self._endpoints.values() for one in group.values())

    def by_key(self, service: str, key: str) -> list[Endpoint]:
        """Every endpoint, the healthy ones first, in an order that all gateways share.

        Raises ServiceUnavailable when there is none.
        """
        self.all(service)
        ranked = sorted(
            self._endpoints[service].items(),
            key=lambda item: (
                not (item[1].reachable and item[1].breaker.ready),
                rendezvous_weight(key, item[0][0]),
            ),
        )
        return [endpoint for _, endpoint in ranked]

    async def _update(self, service: str, instances: Collection[Instance]) -> None:
        if instances:
            await self._replace(service, instances)
            self._known[service].set()
        await self._on_change(service, bool(instances))

    async def _replace(self, service: str, instances: Collection[Instance]) -> None:
        before = self._endpoints[service]
        named: dict[Place, Instance] = {
            (instance.instance_id, instance.address): instance for instance in instances
        }
        self._endpoints[service] = {
            place: before.get(place) or self._endpoint(instance)
            for place, instance in named.items()
        }
        for place in before.keys() - named.keys():
            await before[place].retire()

    def _endpoint(self, instance: Instance) -> Endpoint:
        window_bytes = RELAY_WINDOW_BYTES if offers_relay(instance) else WINDOW_BYTES
        channel = self._open(instance.address, role=instance.service, window_bytes=window_bytes)
        on_change = partial(self._on_breaker, instance)
        breaker = Breaker(is_failure=_is_failure, on_change=on_change)
        return Endpoint(instance, channel, breaker)

    def _on_breaker(self, instance: Instance, breaker: Breaker) -> None:
        self._publish(breaker_change(instance, breaker), instance.instance_id)


def _missing(service: str) -> ServiceUnavailable:
    if service in _MISSING:
        return NotStarted(_MISSING[service])
    message = f"no {service} service is running; start one, or wait until it is back"
    return ServiceUnavailable(message)


def _is_failure(error: MeshError) -> bool:
    return isinstance(error, EngineLost | Internal)


def _rank(endpoint: Endpoint, may_try: bool) -> tuple[int, int]:
    closed = endpoint.breaker.state is BreakerState.CLOSED
    if not endpoint.reachable or not endpoint.breaker.ready or not (closed or may_try):
        return 2, endpoint.breaker.failures
    # It is probed before the healthy ones: behind them, an idle mesh would never reach it.
    return int(closed), 0
