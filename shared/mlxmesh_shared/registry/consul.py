"""Discovery by Consul: the host's agent checks the health of instances.

While Consul is unavailable, the last known instances stay known. Within seconds of the agent's
return, the instances of this process are registered again.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import NamedTuple

from mlxmesh_shared.consul.agent import ConsulAgent, ConsulService
from mlxmesh_shared.consul.blocking import MAX_WAIT_S, BlockingQuery
from mlxmesh_shared.consul.rejoining import keep_joined
from mlxmesh_shared.errors import InvalidArgument, RegistryUnavailable
from mlxmesh_shared.host.host_port import join_host_port, split_host_port
from mlxmesh_shared.registry.port import Instance, checked_name
from mlxmesh_shared.rpc.health import PROBE_TIMEOUT_S, health
from mlxmesh_shared.settings.consul import ConsulSettings
from mlxmesh_shared.tls import CertificateSource
from mlxmesh_shared.tls.identity import server_name

_log = logging.getLogger(__name__)

_PID = "mlxmesh-pid"
# The interval of probes while Consul's answer differs from what instances say themselves.
_RECHECK_S = 1.0
# For this long an instance that stopped serving is probed, each time with the short timeout.
_LOST_S = 600.0
_LOST_PROBE_S = 0.5
# Every process probes, so that many instances at once would be overloaded by it: repetitions take
# turns, so many of each kind a second, and no more than these run at the same time.
MAX_REPEATED_PROBES = 16
MAX_PROBES_AT_ONCE = 64
# Each answer lists all instances of a service. While they change, a watch reads no more of them.
MAX_READ_PER_S = 2000
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
        # By service: those that answered a probe against Consul's word, by id; the one whose probe
        # is the longest ago comes first.
        self._vouched: dict[str, dict[str, Instance]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def register(self, instance: Instance) -> None:
        """As in Registry; while the agent is unavailable or refuses, registration is retried.

        Raises: InvalidArgument when Consul cannot store the name or the metadata.
        """
        service = self._to_consul(instance)
        self._own[service.service_id] = service
        self._deregistered.discard(service.service_id)
        with contextlib.suppress(RegistryUnavailable):  # logged and retried
            await self._agent.register(service)
        if not self._tasks:
            joining = keep_joined(self._agent, f"{self._prefix}-", lambda: self._own)
            self._tasks = [
                asyncio.create_task(self._restore_lost(), name="consul-restorer"),
                asyncio.create_task(joining, name="consul-joining"),
            ]

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
        last: tuple[Instance, ...] | None = None
        async with aclosing(self._answers(service)) as answers:
            async for found in answers:
                confirmed = await self._confirmed(service, found)
                if confirmed != last:
                    last = confirmed
                    yield confirmed

    async def _answers(self, service: str) -> AsyncGenerator[tuple[ConsulService, ...], None]:
        """Consul's latest answer after each change, and again when instances must be probed.

        A probe needs no new answer: Consul would list all instances each time.
        """
        ask = partial(self._agent.services, self._name(service))
        query = BlockingQuery[tuple[ConsulService, ...]](lambda found: len(found) / MAX_READ_PER_S)
        found = await query.next(ask)
        while True:
            yield found
            # A Consul that lists nothing may have lost its state, and its index begun again.
            wait_s = MAX_WAIT_S if found or not self._known.get(service) else _RECHECK_S
            asking = asyncio.create_task(query.next(ask, wait_s), name=f"watch of {service}")
            try:
                while not asking.done():
                    timeout_s = _RECHECK_S if self._differs(service, found) else None
                    if not (await asyncio.wait((asking,), timeout=timeout_s))[0]:
                        yield found
                found = asking.result()
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

    def _differs(self, service: str, found: tuple[ConsulService, ...]) -> bool:
        """Whether some instances are known to serve, or may serve again, against the answer."""
        passing = sum(one.passing for one in found)
        return len(self._known.get(service, ())) > passing or bool(self._lost.get(service))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._agent.close()

    async def _restore_lost(self) -> None:
        """Registers again what the agent lost, by a restart or by the removal of its checks."""
        while True:
            await asyncio.sleep(self._interval_s)
            with contextlib.suppress(RegistryUnavailable):
                checked = await self._agent.checked_services(self._own)
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
        passing = {one.service_id: self._from_consul(one) for one in found if one.passing}
        failing = {one.service_id: self._from_consul(one) for one in found if not one.passing}
        suspected = [
            one
            for one in self._known.get(service, ())
            if (self._is_one_of(failing, one) or not found) and not self._is_deregistered(one)
        ]
        lost = self._still_lost(service, failing)
        # Those that were probed the longest ago come first.
        probed, others = lost[:MAX_REPEATED_PROBES], lost[MAX_REPEATED_PROBES:]
        known, back = await asyncio.gather(
            self._vouched_for(service, suspected),
            self._serving(service, [one.instance for one in probed], _LOST_PROBE_S),
        )
        instances = passing | {self._id(one): one for one in (*known, *back)}
        until_s = asyncio.get_running_loop().time() + _LOST_S
        newly_lost = [_Lost(one, until_s) for one in suspected if self._is_one_of(failing, one)]
        self._lost[service] = tuple(
            one
            for one in (*others, *newly_lost, *probed)
            if not self._is_one_of(instances, one.instance)
        )
        confirmed = tuple(sorted(instances.values(), key=lambda one: one.instance_id))
        self._known[service] = confirmed
        return confirmed

    async def _vouched_for(
        self, service: str, suspected: Sequence[Instance]
    ) -> tuple[Instance, ...]:
        """Those that serve, by a probe now or, while it is not their turn, by their last one."""
        suspects = {self._id(one): one for one in suspected}
        before = {
            key: one
            for key, one in self._vouched.get(service, {}).items()
            if self._is_one_of(suspects, one)
        }
        again = list(before.values())[:MAX_REPEATED_PROBES]
        new = [one for key, one in suspects.items() if key not in before]
        serving = await self._serving(service, [*new, *again], PROBE_TIMEOUT_S)
        waiting = list(before.values())[MAX_REPEATED_PROBES:]
        vouched = {self._id(one): one for one in (*waiting, *serving)}
        self._vouched[service] = vouched
        return tuple(vouched.values())

    def _still_lost(self, service: str, failing: Mapping[str, Instance]) -> list[_Lost]:
        """Those that stopped serving, that Consul lists and that were not deregistered here."""
        now_s = asyncio.get_running_loop().time()
        return [
            one
            for one in self._lost.get(service, ())
            if one.until_s > now_s
            and self._is_one_of(failing, one.instance)
            and not self._is_deregistered(one.instance)
        ]

    def _is_one_of(self, instances: Mapping[str, Instance], instance: Instance) -> bool:
        """Whether this very registration is among those, which are by Consul's service id."""
        return instances.get(self._id(instance)) == instance

    def _is_deregistered(self, instance: Instance) -> bool:
        return self._id(instance) in self._deregistered

    async def _serving(
        self, service: str, known: Sequence[Instance], timeout_s: float
    ) -> tuple[Instance, ...]:
        places = asyncio.Semaphore(MAX_PROBES_AT_ONCE)

        async def ask(address: str) -> str:
            async with places:
                return await health(
                    address,
                    role=_role_of(service),
                    certificates=self._certificates,
                    timeout_s=timeout_s,
                )

        answers = await asyncio.gather(*(ask(one.address) for one in known))
        return tuple(one for one, state in zip(known, answers, strict=True) if state == "serving")

    def _name(self, service: str) -> str:
        return f"{self._prefix}-{checked_name(service, 'service')}"

    def _id(self, instance: Instance) -> str:
        return f"{self._prefix}-{instance.service}:{instance.instance_id}"

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
