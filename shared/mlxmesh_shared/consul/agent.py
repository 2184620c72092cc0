"""A client of a Consul agent; every failure is a RegistryUnavailable that says why."""

import asyncio
import logging
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import consul.base as py_consul  # pyright: ignore[reportMissingTypeStubs] - it has none

from mlxmesh_shared.consul.transport import Transport
from mlxmesh_shared.errors import RegistryUnavailable
from mlxmesh_shared.host.host_port import join_host_port
from mlxmesh_shared.settings.consul import ConsulSettings

_log = logging.getLogger(__name__)

# Longer expressions cost Consul more than a list of everything.
_MAX_FILTERED = 8
# Consul adds up to a sixteenth to a wait, so that answers are spread out.
_WAIT_SLACK = 1 / 16
# Of a member in gossip. Source: serf's `MemberStatus`.
_FAILED = 4
_LEADER_TIMEOUT_S = 1.0

T = TypeVar("T")


class ConsulService(NamedTuple):
    """An instance of a service in Consul's terms."""

    name: str
    service_id: str
    address: str
    port: int
    meta: Mapping[str, str]
    passing: bool = True
    """Whether all its checks, and those of its host, passed in their last run."""
    tls_server_name: str = ""
    """The name that the health check expects in its certificate; empty for a check without TLS."""


class ConsulAgent:
    """A client of one agent; one per process, made on the event loop that uses it."""

    def __init__(
        self,
        settings: ConsulSettings,
        *,
        request_timeout_s: float = 5.0,
        transport: Transport | None = None,
    ) -> None:
        """`request_timeout_s` is for requests that do not wait for a change."""
        self._settings = settings
        self._request_timeout_s = request_timeout_s
        self._transport = transport or Transport(settings)
        self._consul = _client(self._transport, settings)
        self._problems: dict[str, str] = {}

    async def register(self, service: ConsulService) -> None:
        """Registers a service; its check counts as passing until the agent has run it."""
        await self._ask(
            f"register {service.service_id}",
            self._consul.agent.service.register(
                name=service.name,
                service_id=service.service_id,
                address=service.address,
                port=service.port,
                meta=dict(service.meta),
                check=_health_check(service, self._settings),
                replace_existing_checks=True,
            ),
        )

    async def deregister(self, service_id: str) -> None:
        """Removes a service; an unknown one is ignored."""
        await self._ask(
            f"deregister {service_id}", self._consul.agent.service.deregister(service_id)
        )

    async def has_leader(self) -> bool:
        """Whether a server tells it of one in time; failures are not logged."""
        try:
            async with asyncio.timeout(_LEADER_TIMEOUT_S):
                return bool(await self._consul.status.leader())
        except (TimeoutError, py_consul.ConsulException, RegistryUnavailable):
            return False

    async def passing_services(self) -> frozenset[str]:
        """The ids of the services of its host whose checks pass."""
        checks = await self._ask("list its checks", self._consul.agent.checks())
        return frozenset(
            check["ServiceID"] for check in checks.values() if check["Status"] == "passing"
        )

    async def failed_servers(self) -> tuple[str, ...]:
        """The addresses of the servers that its gossip counts as failed."""
        members = await self._ask("list its members", self._consul.agent.members())
        return tuple(
            join_host_port(member["Addr"], member["Port"])
            for member in members
            if member["Status"] == _FAILED and member["Tags"]["role"] == "consul"
        )

    async def join(self, address: str) -> None:
        """Has it connect to another agent now."""
        await self._ask(f"join {address}", self._consul.agent.join(address))

    async def forget_host(self, name: str) -> None:
        """Removes a host that is gone from the list of hosts."""
        await self._ask(f"forget host {name}", self._consul.agent.force_leave(name))

    async def checked_services(self, wanted: Collection[str] = ()) -> frozenset[str]:
        """The ids of the services that the agent checks; of a few wanted ones, only these.

        Every process asks this again and again, so that listing all checks of a host to each of its
        processes would grow with the square of their number.
        """
        few = 0 < len(wanted) <= _MAX_FILTERED
        only = " or ".join(f'ServiceID == "{one}"' for one in wanted) if few else None
        checks = await self._ask("list its checks", self._consul.agent.checks(only))
        return frozenset(check["ServiceID"] for check in checks.values())

    async def services(
        self, name: str, index: int, wait_s: float
    ) -> tuple[int, tuple[ConsulService, ...]]:
        """The services of a name, when the index has advanced or after wait_s."""
        answer = self._consul.health.service(name, index=index or None, wait=_duration(wait_s))
        found_at, entries = await self._ask(f"list {name}", answer, index and wait_s)
        return int(found_at), tuple(map(_service, cast("Sequence[Any]", entries or ())))

    async def values(self, prefix: str, index: int, wait_s: float) -> tuple[int, Mapping[str, str]]:
        """The values below a prefix by the rest of their key, as soon as the index has advanced."""
        answer = self._consul.kv.get(
            prefix, recurse=True, index=index or None, wait=_duration(wait_s)
        )
        what = f"list the keys of {prefix}"
        found_at, entries = await self._ask(what, answer, index and wait_s)
        return int(found_at), {
            str(entry["Key"]).removeprefix(prefix): _text(entry["Value"])
            for entry in cast("Sequence[Any]", entries or ())
        }

    async def close(self) -> None:
        """Closes its connections."""
        await self._transport.close()

    async def _ask(self, what: str, answer: Awaitable[T], wait_s: float = 0) -> T:
        timeout_s = self._request_timeout_s + wait_s * (1 + _WAIT_SLACK)
        try:
            async with asyncio.timeout(timeout_s):
                answered = await answer
        except TimeoutError:
            problem = f"did not answer within {timeout_s:g} s"
        except py_consul.ConsulException:
            problem = "answered with something that Consul does not send; is it an agent?"
        except RegistryUnavailable as error:
            problem = error.message
        else:
            self._note(what, "")
            return answered
        message = f"the Consul agent at {self._settings.address} {problem}"
        self._note(what, message)
        raise RegistryUnavailable(f"{message} (asked to {what})")

    def _note(self, what: str, problem: str) -> None:
        """Logs a problem when it begins, changes or ends, not each time that it occurs."""
        if self._problems.get(what, "") == problem:
            return
        self._problems[what] = problem
        if problem:
            _log.warning("Consul cannot %s: %s; retrying", what, problem)
        else:
            del self._problems[what]
            _log.info("Consul can %s again", what)


def _client(transport: Transport, settings: ConsulSettings) -> Any:
    """py-consul's API over our transport."""

    class Client(py_consul.Consul):
        def http_connect(self, *_: Any, **__: Any) -> Any:
            return transport

    client: Any = Client("", 0, scheme="", dc=settings.datacenter or None, verify=False)
    # The environment's CONSUL_HTTP_TOKEN would win over an argument.
    client.token = settings.token.get_secret_value() or None
    return client


def _health_check(service: ConsulService, settings: ConsulSettings) -> dict[str, Any]:
    interval_s = settings.check_interval_s
    return {
        "Name": "gRPC health",
        "GRPC": join_host_port(service.address, service.port),
        "GRPCUseTLS": bool(service.tls_server_name),
        "TLSServerName": service.tls_server_name,
        "Interval": _duration(interval_s),
        "Timeout": _duration(max(1.0, interval_s / 2)),
        # A process registers when it serves: no need to wait for the first check.
        "Status": "passing",
        "FailuresBeforeCritical": 2,
        # Removes instances that never return; this is not failure detection. At least a minute.
        "DeregisterCriticalServiceAfter": "10m",
    }


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _service(entry: Mapping[str, Any]) -> ConsulService:
    service = entry["Service"]
    return ConsulService(
        name=service["Service"],
        service_id=service["ID"],
        address=service["Address"],
        port=service["Port"],
        meta=service.get("Meta") or {},
        passing=all(check["Status"] == "passing" for check in entry.get("Checks") or ()),
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
