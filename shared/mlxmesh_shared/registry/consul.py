"""Discovery by Consul: the host's agent checks the health of instances.

While Consul is unavailable, the last known instances stay known. Within seconds of the agent's
return, the instances of this process are registered again.
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
# The interval of queries while Consul's answer differs from what instances say themselves.
_RECHECK_S = 1.0
# For this long an instance that stopped serving is probed, each time with the short timeout.
_LOST_S = 600.0
_LOST_PROBE_S = 0.5
_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_META_VALUE_CHARACTERS = 512
_META_PAIRS = 63  # and the pid


class _Lost(NamedTuple):
    """A known instance that stopped serving while Consul still lists it."""

    instance: Instance
    until_s: float
    """When its probes end, by the event loop's clock."""


class ConsulRegistry:
    """Satisfies Registry across machines; one per process, on one event loop."""

    def __init__(
        self,
        settings: ConsulSettings,
        agent: ConsulAgent | None = None,
        *,
        certificates: CertificateSource | None = None,
    ) -> None:
        """The registry closes the agent.

        certificates: those of this process, if the mesh uses TLS.
        """
        self._certificates = certificates
        self._agent = agent or ConsulAgent(settings)
        self._prefix = settings.prefix
        chosen = settings.check_tls
        self._checks_tls = certificates is not None if chosen is None else chosen
        self._interval_s = settings.check_interval_s
        self._own: dict[str, ConsulService] = {}
        self._deregistered: set[str] = set()
        self._known: dict[str, tuple[Instance, ...]] = {}
        self._lost: dict[str, tuple[_Lost, ...]] = {}
        self._restorer: asyncio.Task[None] | None = None

    async def register(self, instance: Instance) -> None:
        """As in Registry; while the agent is unavailable or refuses, registration is retried.

        Raises: InvalidArgument when Consul cannot store the name or the metadata.
        """
        service = self._to_consul(instance)
        self._own[service.service_id] = service
        self._deregistered.discard(service.service_id)
        with contextlib.suppress(RegistryUnavailable):  # logged and retried
            await self._agent.register(service)
        if self._restorer is None:
            self._restorer = asyncio.create_task(self._restore_lost(), name="consul-restorer")

    async def deregister(self, instance: Instance) -> None:
        """As in Registry; if the agent is unavailable, its health check removes the instance."""
        service_id = self._to_consul(instance).service_id
        self._own.pop(service_id, None)
        self._deregistered.add(service_id)
        with contextlib.suppress(RegistryUnavailable):
            await self._agent.deregister(service_id)

    async def resolve(self, service: str) -> tuple[Instance, ...]:
        """As in Registry; the last known set while Consul does not answer.

        Raises: RegistryUnavailable when it has never answered.
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
        recheck = False
        while True:
            wait_s = _RECHECK_S if recheck else MAX_WAIT_S
            found = await query.next(partial(self._agent.services, name), wait_s)
            confirmed = await self._confirmed(service, found)
            differs = len(confirmed) > sum(one.passing for one in found)
            recheck = differs or bool(self._lost.get(service))
            if confirmed != last:
                last = confirmed
                yield confirmed

    async def close(self) -> None:
        if self._restorer is not None:
            self._restorer.cancel()
            await asyncio.gather(self._restorer, return_exceptions=True)
            self._restorer = None
        await self._agent.close()

    async def _restore_lost(self) -> None:
        """Registers again what the agent lost, by a restart or by the removal of its checks."""
        while True:
            await asyncio.sleep(self._interval_s)
            with contextlib.suppress(RegistryUnavailable):
                checked = await self._agent.checked_services()
                for service_id in self._own.keys() - checked:
                    await self._restore(service_id)

    async def _restore(self, service_id: str) -> None:
        # It may have been deregistered while the agent answered.
        service = self._own.get(service_id)
        if service is not None:
            await self._agent.register(service)
            _log.info("registered %s again; the agent had lost it", service_id)

    async def _confirmed(
        self, service: str, found: tuple[ConsulService, ...]
    ) -> tuple[Instance, ...]:
        """The instances whose checks pass, and known ones that answer a probe themselves.

        After its restart an agent reports every check as failed. A Consul that lost its state or
        its leader may return no instance. After a network failure a host counts as failed for ten
        seconds and more. An instance that is missing while others are listed was deregistered.
        """
        passing = [self._from_consul(one) for one in found if one.passing]
        failing = [self._from_consul(one) for one in found if not one.passing]
        suspected = [
            one
            for one in self._known.get(service, ())
            if (one in failing or not found) and not self._is_deregistered(one)
        ]
        lost = self._still_lost(service, failing)
        known, back = await asyncio.gather(
            self._serving(service, suspected, PROBE_TIMEOUT_S),
            self._serving(service, [one.instance for one in lost], _LOST_PROBE_S),
        )
        instances = (*passing, *known, *back)
        until_s = asyncio.get_running_loop().time() + _LOST_S
        newly_lost = [_Lost(one, until_s) for one in suspected if one in failing]
        self._lost[service] = tuple(
            one for one in (*lost, *newly_lost) if one.instance not in instances
        )
        confirmed = tuple(sorted(instances, key=lambda one: one.instance_id))
        self._known[service] = confirmed
        return confirmed

    def _still_lost(self, service: str, failing: Sequence[Instance]) -> list[_Lost]:
        """Those that stopped serving, that Consul lists and that were not deregistered here."""
        now_s = asyncio.get_running_loop().time()
        return [
            one
            for one in self._lost.get(service, ())
            if one.until_s > now_s
            and one.instance in failing
            and not self._is_deregistered(one.instance)
        ]

    def _is_deregistered(self, instance: Instance) -> bool:
        return self._to_consul(instance).service_id in self._deregistered

    async def _serving(
        self, service: str, known: Sequence[Instance], timeout_s: float
    ) -> tuple[Instance, ...]:
        ask = partial(
            health, role=_role_of(service), certificates=self._certificates, timeout_s=timeout_s
        )
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
            tls_server_name=server_name(_role_of(instance.service)) if self._checks_tls else "",
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


def _role_of(service: str) -> str:
    """The role in the certificate of a service; a launcher shows that of a runtime."""
    return "runtime" if service == "launcher" else service


def _checked_meta(metadata: Mapping[str, str]) -> dict[str, str]:
    """Raises: InvalidArgument when Consul would reject it."""
    if len(metadata) > _META_PAIRS:
        raise InvalidArgument(f"metadata may have {_META_PAIRS} entries", field="metadata")
    for key, value in metadata.items():
        if _META_KEY.fullmatch(key) is None or len(value) > _META_VALUE_CHARACTERS:
            raise InvalidArgument(
                f"metadata keys may have up to 128 letters, digits, '_', '-', "
                f"and values up to {_META_VALUE_CHARACTERS} characters",
                field=f"metadata.{key}"[:100],
            )
    return dict(metadata)
