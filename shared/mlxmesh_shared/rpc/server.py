"""One gRPC server: guarded handlers, health, reflection, limits, and a drain that loses no call."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mlxmesh.control.v1.control_pb2_grpc import add_ControlServiceServicer_to_server
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.resilience.admission import CallAdmission
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter
from mlxmesh_shared.rpc import control, shared_port
from mlxmesh_shared.rpc.entrance import Entrance, RoleEntrance
from mlxmesh_shared.rpc.interceptors import CallGuard, CallWatcher
from mlxmesh_shared.rpc.methods import is_infrastructure
from mlxmesh_shared.rpc.reflection import reflection_handlers
from mlxmesh_shared.rpc.requests import Receiver, RequestParser
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.tls import ServerTls

AddServicer = Callable[[Any, aio.Server], None]
_HEALTH = "grpc.health.v1.Health"
# gRPC reports a far deadline for a call without one.
_NO_DEADLINE_S = 10 * 365 * 86400
SETTLE_S = 0.5
"""How long other processes have to see that an instance leaves; the registry needs up to 0.2 s."""
_CLEAN_UP_S = 5.0
"""How long handlers of cancelled calls have to end; gRPC itself does not wait for them."""
_MAX_PENDING_CALLS = 50_000
_BACKSTOP_BYTES = 2**20
# gRPC ends each connection up to a tenth earlier or later, so that not all reconnect at once.
_AGE_JITTER = 1.1


@dataclass(frozen=True)
class ServerOptions:
    """Limits of one server."""

    max_message_bytes: int = 16 * 2**20
    max_held_bytes: int = 256 * 2**20
    """The total size of the large requests of running calls, half of it for each caller."""
    max_connections: int = 1024
    """Further connections are closed at once."""
    max_metadata_bytes: int = 16 * 1024
    max_concurrent_rpcs: int | None = None
    max_rpcs_per_caller: int | None = None
    """Within max_concurrent_rpcs."""
    max_concurrent_streams: int = 1024
    reflection: bool = True
    log_successes: bool = True
    """Whether a successful call is logged at INFO; else at DEBUG, for services that are polled."""
    keepalive_time_s: float = 30
    keepalive_timeout_s: float = 5
    max_connection_age_s: float | None = None
    max_connection_idle_s: float | None = None
    hands_over_port: bool = False
    """Whether a successor may listen on the port during the drain; needs max_connection_age_s."""
    takes_over: bool = False
    """Whether this server may start while another one listens on its port."""
    settle_s: float = SETTLE_S
    """How long other processes have to see that it leaves, before its port closes."""
    carriers: frozenset[str] = frozenset()
    """Methods whose streams carry other calls, which are counted and measured instead."""

    def admission(self) -> CallAdmission | None:
        """The limit of concurrent calls; None for any number."""
        limit = self.max_concurrent_rpcs
        if limit is None:
            return None
        limiter = ConcurrencyLimiter(limit, per_caller=self.max_rpcs_per_caller)
        return CallAdmission(limiter)

    def channel_arguments(self) -> list[tuple[str, int]]:
        """The options for gRPC's core."""
        arguments = [
            # The guard checks the exact limit and returns a reason; this one is a backstop.
            ("grpc.max_receive_message_length", self.max_message_bytes + _BACKSTOP_BYTES),
            # gRPC expands a compressed message before it checks its size, so that one could cost
            # a thousand times what it costs its sender: docs/decisions/0025.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            # Otherwise a fast connection may buffer megabytes here for each call that is not read
            # yet, instead of 64 KiB.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.max_metadata_size", self.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.max_metadata_bytes),
            ("grpc.max_concurrent_streams", self.max_concurrent_streams),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            # By default gRPC cancels random calls once 1,000 have no handler yet: a client that
            # opens and resets streams would end those of others.
            ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", 2 * _MAX_PENDING_CALLS),
            ("grpc.keepalive_time_ms", round(self.keepalive_time_s * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            ("grpc.http2.ping_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            # Clients ping each second; by default gRPC would reply GOAWAY too_many_pings.
            ("grpc.http2.min_ping_interval_without_data_ms", 300),
            ("grpc.server_handshake_timeout_ms", 2000),
            # Otherwise two processes may share one port, and each gets half of the connections.
            ("grpc.so_reuseport", int(self.hands_over_port and shared_port.CAN_SHARE)),
        ]
        if self.max_connection_age_s is not None:
            arguments.append(
                ("grpc.max_connection_age_ms", round(self.max_connection_age_s * 1000))
            )
        if self.max_connection_idle_s is not None:
            arguments.append(
                ("grpc.max_connection_idle_ms", round(self.max_connection_idle_s * 1000))
            )
        return arguments


class MeshServer:
    """A server that is NOT_SERVING until `set_serving`, and drains before it stops."""

    def __init__(
        self,
        *,
        listen: str = "127.0.0.1:0",
        services: Sequence[tuple[AddServicer, Any]],
        service_names: Sequence[str],
        options: ServerOptions = ServerOptions(),
        generic_handlers: Sequence[grpc.GenericRpcHandler] = (),
        name: str = "this service",
        tls: ServerTls | None = None,
        entrance: Entrance | None = None,
        leaving: asyncio.Event | None = None,
        watcher: CallWatcher | None = None,
        on_closing: Callable[[], None] = lambda: None,
    ) -> None:
        """entrance: by default a RoleEntrance with the limits of the options.
        on_closing: called in a drain when the port closes and running calls have yet to end.
        """
        self.address = ""
        self.leaving = leaving or asyncio.Event()
        """Set when ControlService is asked to drain this process."""
        self._on_closing = on_closing
        self._tls = tls
        self._listen = listen
        self._options = options
        self._service_names = tuple(service_names)
        descriptors = _descriptors((*service_names, control.SERVICE_NAME))
        self._entrance = entrance or RoleEntrance(
            access=tls.access(descriptors) if tls is not None else None,
            admission=options.admission(),
        )
        self._guard = CallGuard(
            service=name,
            receiver=Receiver(
                RequestParser(Validator.for_services(*descriptors)),
                max_message_bytes=options.max_message_bytes,
                max_held_bytes=options.max_held_bytes,
                caller=self._entrance.caller,
            ),
            entrance=self._entrance,
            log_successes=options.log_successes,
            watcher=watcher,
            carriers=options.carriers,
            recalled=tls.recalled() if tls is not None else None,
        )
        self._server = aio.server(interceptors=[self._guard], options=options.channel_arguments())
        self._health = health.aio.HealthServicer()
        self._add_handlers(services, generic_handlers)

    def _add_handlers(
        self,
        services: Sequence[tuple[AddServicer, Any]],
        generic_handlers: Sequence[grpc.GenericRpcHandler],
    ) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        add_ControlServiceServicer_to_server(control.ControlServicer(self.leaving), self._server)
        for add_servicer, servicer in services:
            add_servicer(servicer, self._server)
        if self._options.reflection:
            names = (*self._service_names, control.SERVICE_NAME, _HEALTH)
            generic_handlers = (*generic_handlers, *reflection_handlers(names))
        self._server.add_generic_rpc_handlers(generic_handlers)

    async def start(self) -> str:
        """Listens while NOT_SERVING, and returns the bound host:port.

        Raises: IllegalState when the address cannot be listened on.
        """
        await self.set_not_serving()
        host, _, _ = self._listen.rpartition(":")
        # With SO_REUSEPORT the bind would succeed while another process listens.
        exclusive = self._options.hands_over_port and not self._options.takes_over
        if exclusive and not shared_port.is_free(self._listen):
            raise _cannot_listen(self._listen)
        try:
            port = self._bind()
        except RuntimeError as error:
            raise _cannot_listen(self._listen) from error
        await self._server.start()
        self.address = f"{host}:{port}"
        return self.address

    def limit_concurrent_rpcs(self, limit: int, *, per_caller: int | None = None) -> None:
        """Changes the limit of concurrent calls, if there is one; running calls continue."""
        self._entrance.resize(limit, per_caller=per_caller)

    def guarded(self, method: str, handler: Any) -> Callable[[Any, Any], Any]:
        """The guarded behaviour of a method, for the calls of it that a carrier carries."""
        return self._guard.behaviour(method, handler)

    def flush(self) -> None:
        """Records the calls that have ended now instead of shortly after."""
        self._guard.flush()

    def _bind(self) -> int:
        if self._tls is None:
            return self._server.add_insecure_port(self._listen)
        return self._server.add_secure_port(self._listen, self._tls.credentials())

    async def set_serving(self, services: Sequence[str] | None = None) -> None:
        """Reports SERVING to health checks of the process and of these services; None for all."""
        names = self._service_names if services is None else services
        for service in ("", *names):
            await self.set_health(service, serving=True)

    async def set_not_serving(self) -> None:
        """Reports NOT_SERVING to health checks of the process and of all its services."""
        for service in ("", *self._service_names):
            await self.set_health(service, serving=False)

    async def set_health(self, service: str, *, serving: bool) -> None:
        """Reports the health of one service, or of the whole process for the empty name."""
        statuses = health_pb2.HealthCheckResponse
        await self._health.set(service, statuses.SERVING if serving else statuses.NOT_SERVING)

    async def hand_over(self) -> None:
        """Stops accepting connections, and returns after every client was told to reconnect, which
        it does at the successor.

        Meanwhile running calls continue and new ones are accepted: a server that stops loses the
        calls that are on their way, so it must not stop before clients have moved.
        """
        await shared_port.stop_listening(self.address)
        age_s = self._options.max_connection_age_s or 0
        await asyncio.sleep(_AGE_JITTER * age_s + self._options.settle_s)

    async def drain(self, grace_s: float, settle_s: float | None = None) -> None:
        """Stops without losing a call; calls that still run after grace_s end as DRAINING.

        settle_s: how long resolvers and balancers have to pick other instances before the port
        closes; by default that of the options.
        """
        await self.set_not_serving()
        await asyncio.sleep(self._options.settle_s if settle_s is None else settle_s)
        self._guard.end_calls(_never_ends)
        self._on_closing()
        stopping = asyncio.create_task(self._server.stop(grace_s + 1))
        await asyncio.wait({stopping}, timeout=grace_s)
        self._guard.end_calls(lambda _: True)
        await stopping
        # Whoever calls this closes next what handlers use, for example to store why they end.
        await self._guard.until_ended(_CLEAN_UP_S)
        self._guard.flush()


def _cannot_listen(listen: str) -> IllegalState:
    return IllegalState(
        f"cannot listen on {listen}; stop the process that uses it or choose another address"
    )


def remaining_s(context: aio.ServicerContext[Any, Any]) -> float | None:
    """The time left until the caller's deadline; None if it set none."""
    left_s = cast("float | None", context.time_remaining())
    return left_s if left_s is not None and left_s < _NO_DEADLINE_S else None


def _never_ends(method: str) -> bool:
    # A watch runs until its caller ends it, so waiting for it would use the whole grace period.
    return is_infrastructure(method) or method.rpartition("/")[2].startswith("Watch")


def _descriptors(service_names: Sequence[str]) -> list[ServiceDescriptor]:
    pool = descriptor_pool.Default()
    return [pool.FindServiceByName(name) for name in service_names]
