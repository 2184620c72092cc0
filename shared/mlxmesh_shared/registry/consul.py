"""Discovery by Consul: the host's agent checks instances, watchers hear of each change.

Consul's absence stops nothing: what was last known stays known, and whatever this process has
registered is registered again within seconds of the agent's return.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from mlxmesh_shared.consul.agent import ConsulAgent, ConsulService
from mlxmesh_shared.consul.blocking import MAX_WAIT_S, BlockingQuery
from mlxmesh_shared.errors import InvalidArgument, RegistryUnavailable
from mlxmesh_shared.host.host_port import join_host_port, split_host_port
from mlxmesh_shared.registry.port import Instance, checked_name
from mlxmesh_shared.rpc.health import PROBE_TIMEOUT_S, health
from mlxmesh_shared.settings.consul import ConsulSettings
from mlxmesh_shared.tls import CertificateSource
from mlxmesh_shared.tls.identity import server_name

_log = logging.getLogger(__name__)

_PID = "mlxmesh-pid"
# How soon to ask again while Consul is not believed.
_RECHECK_S = 1.0
# An instance that stopped to serve is asked for so long, each time for a moment only.
_LOST_S = 600.0
_LOST_PROBE_S = 0.5
_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_META_VALUE_CHARACTERS = 512
_META_PAIRS = 63  # and the pid


class _Lost(NamedTuple):
    """A known instance that stopped to serve while Consul still lists it."""

    instance: Instance
    until_s: float
    """When it is given up, by the event loop's clock."""


class ConsulRegistry:
    """The registry across machines; one per process, on one event loop."""

    def __init__(
        self,
        settings: ConsulSettings,
        agent: ConsulAgent | None = None,
        *,
        certificates: CertificateSource | None = None,
    ) -> None:
        """The agent is closed with the registry.

        certificates: this process's, where the mesh uses TLS.
        """
        self._certificates = certificates
        self._agent = agent or ConsulAgent(settings)
        self._prefix = settings.prefix
        given = settings.check_tls
        self._checks_tls = certificates is not None if given is None else given
        self._interval_s = settings.check_interval_s
        self._own: dict[str, ConsulService] = {}
        self._withdrawn: set[str] = set()
        self._known: dict[str, tuple[Instance, ...]] = {}
        self._lost: dict[str, tuple[_Lost, ...]] = {}
        self._keeper: asyncio.Task[None] | None = None

    async def register(self, instance: Instance) -> None:
        """As of Registry; an agent that is away or refuses is told as soon as it listens.

        Raises: InvalidArgument when Consul cannot hold the name or the metadata.
        """
        service = self._to_consul(instance)
        self._own[service.service_id] = service
        self._withdrawn.discard(service.service_id)
        with contextlib.suppress(RegistryUnavailable):  # logged, and tried again
            await self._agent.register(service)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_registered(), name="consul-keeper")

    async def deregister(self, instance: Instance) -> None:
        """As of Registry; where the agent is away, its health check finds the instance gone."""
        service_id = self._to_consul(instance).service_id
        self._own.pop(service_id, None)
        self._withdrawn.add(service_id)
        with contextlib.suppress(RegistryUnavailable):
            await self._agent.deregister(service_id)

    async def resolve(self, service: str) -> tuple[Instance, ...]:
        """As of Registry; the last known set while Consul does not answer.

        Raises: RegistryUnavailable when it does not and never did.
        """
        name = self._name(service)
        try:
            _, found = await self._agent.services(name, 0, 0)
        except RegistryUnavailable:
            if service not in self._known:
                raise
            return self._known[service]
        return await self._confirmed(service, found)

    async def watch(self, service: str) -> AsyncGenerator[tuple[Instance, ...], None]:
        name = self._name(service)
        query = BlockingQuery()
        last: tuple[Instance, ...] | None = None
        in_doubt = False
        while True:
            wait_s = _RECHECK_S if in_doubt else MAX_WAIT_S
            found = await query.next(partial(self._agent.services, name), wait_s)
            believed = await self._confirmed(service, found)
            is_more = len(believed) > sum(one.passing for one in found)
            in_doubt = is_more or bool(self._lost.get(service))
            if believed != last:
                last = believed
                yield believed

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        await self._agent.close()

    async def _keep_registered(self) -> None:
        """Registers again what an agent lost: it restarted, or its checks were removed."""
        while True:
            await asyncio.sleep(self._interval_s)
            with contextlib.suppress(RegistryUnavailable):
                checked = await self._agent.checked_services()
                for service_id in self._own.keys() - checked:
                    await self._restore(service_id)

    async def _restore(self, service_id: str) -> None:
        # It may have been withdrawn while the agent was asked.
        service = self._own.get(service_id)
        if service is not None:
            await self._agent.register(service)
            _log.info("registered %s again; the agent did not have it any more", service_id)

    async def _confirmed(
        self, service: str, found: tuple[ConsulService, ...]
    ) -> tuple[Instance, ...]:
        """The instances found whose checks pass, and those once known that say so themselves.

        An agent that restarted begins with every check as failed, a Consul that lost its memory or
        its leader may answer with nobody, and after a broken link a host counts as failed for ten
        seconds and more. What was withdrawn while others stayed is gone.
        """
        passing = [self._from_consul(one) for one in found if one.passing]
        failing = [self._from_consul(one) for one in found if not one.passing]
        doubted = [
            one
            for one in self._known.get(service, ())
            if (one in failing or not found) and not self._is_withdrawn(one)
        ]
        lost = self._still_lost(service, failing)
        known, back = await asyncio.gather(
            self._serving(service, doubted, PROBE_TIMEOUT_S),
            self._serving(service, [one.instance for one in lost], _LOST_PROBE_S),
        )
        instances = (*passing, *known, *back)
        until_s = asyncio.get_running_loop().time() + _LOST_S
        newly_lost = [_Lost(one, until_s) for one in doubted if one in failing]
        self._lost[service] = tuple(
            one for one in (*lost, *newly_lost) if one.instance not in instances
        )
        believed = tuple(sorted(instances, key=lambda one: one.instance_id))
        self._known[service] = believed
        return believed

    def _still_lost(self, service: str, failing: Sequence[Instance]) -> list[_Lost]:
        """Those that stopped to serve, which Consul lists and nobody has withdrawn."""
        now_s = asyncio.get_running_loop().time()
        return [
            one
            for one in self._lost.get(service, ())
            if one.until_s > now_s
            and one.instance in failing
            and not self._is_withdrawn(one.instance)
        ]

    def _is_withdrawn(self, instance: Instance) -> bool:
        return self._to_consul(instance).service_id in self._withdrawn

    async def _serving(
        self, service: str, known: Sequence[Instance], timeout_s: float
    ) -> tuple[Instance, ...]:
        ask = partial(health, role=service, certificates=self._certificates, timeout_s=timeout_s)
        answers = await asyncio.gather(*(ask(one.address) for one in known))
        return tuple(one for one, state in zip(known, answers, strict=True) if state == "serving")

    def _name(self, service: str) -> str:
        return f"{self._prefix}-{checked_name(service, 'service')}"

    def _to_consul(self, instance: Instance) -> ConsulService:
        name = self._name(instance.service)
        host, port = split_host_port(instance.address)
        if not port.isdigit():
            raise InvalidArgument("address must be host:port", field="address")
        return ConsulService(
            name=name,
            service_id=f"{name}:{checked_name(instance.instance_id, 'instance_id')}",
            address=host,
            port=int(port),
            meta=_checked_meta(instance.metadata) | {_PID: str(instance.pid)},
            tls_server_name=server_name(instance.service) if self._checks_tls else "",
        )

    def _from_consul(self, service: ConsulService) -> Instance:
        meta = dict(service.meta)
        return Instance(
            service=service.name.removeprefix(f"{self._prefix}-"),
            instance_id=service.service_id.removeprefix(f"{service.name}:"),
            address=join_host_port(service.address, service.port),
            pid=int(meta.pop(_PID, 0)),
            metadata=meta,
        )


def _checked_meta(metadata: Mapping[str, str]) -> dict[str, str]:
    """Raises: InvalidArgument when Consul would refuse it."""
    if len(metadata) > _META_PAIRS:
        raise InvalidArgument(f"metadata may hold {_META_PAIRS} facts", field="metadata")
    for key, value in metadata.items():
        if _META_KEY.fullmatch(key) is None or len(value) > _META_VALUE_CHARACTERS:
            raise InvalidArgument(
                f"metadata keys may hold up to 128 letters, digits, '_', '-', "
                f"and values up to {_META_VALUE_CHARACTERS} characters",
                field=f"metadata.{key}"[:100],
            )
    return dict(metadata)
