"""Which roles may call which method, as the contracts declare it; denied by default."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio

from mlxmesh.common.v1 import rules_pb2
from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_shared.errors import MethodNotFound, PermissionDenied, Unauthenticated
from mlxmesh_shared.tls.identity import PeerIdentity, peer_identity

_audit = logging.getLogger("mlxmesh.audit")


class MethodAccess:
    """The allowed roles of each method, read once from the descriptors of its services.

    A caller without a role has `anonymous_role`.
    """

    def __init__(
        self,
        services: Iterable[ServiceDescriptor],
        *,
        at_gateway: bool = False,
        anonymous_role: Role.ValueType = Role.ROLE_UNSPECIFIED,
    ) -> None:
        declared = {path: rules for each in services for path, rules in declared_rules(each)}
        self._allowed = {
            path: frozenset(rules.gateway_roles if at_gateway else rules.allowed_roles)
            for path, rules in declared.items()
        }
        self._open = frozenset(
            path for path, rules in declared.items() if at_gateway and rules.gateway_open
        )
        self._anonymous_role = anonymous_role
        self._credentials = CREDENTIALS_AT_GATEWAY if at_gateway else "a certificate"

    def is_open(self, method: str) -> bool:
        """Whether callers without credentials may call the method."""
        return method in self._open

    def is_for_processes(self, method: str) -> bool:
        """Whether only processes of the mesh may call the method."""
        allowed = self._allowed.get(method)
        return bool(allowed) and allowed <= frozenset(_PROCESSES)

    def check(self, method: str, context: aio.ServicerContext[Any, Any]) -> None:
        """As check_identity, for the peer of a gRPC call."""
        self.check_identity(method, peer_identity(context.auth_context()), context.peer)

    def check_identity(self, method: str, caller: PeerIdentity, peer: Callable[[], str]) -> None:
        """Raises: Unauthenticated, PermissionDenied, or MethodNotFound; audits refusals.

        peer: the address of the caller, for the audit.
        """
        allowed = self._allowed.get(method)
        if allowed is None:
            raise MethodNotFound("there is no such method here; list the services by reflection")
        if method in self._open or (caller.role or self._anonymous_role) in allowed:
            return
        fields = {"method": method, "caller": caller.spiffe_id, "peer": peer()}
        _audit.warning("refused", extra={"operation": "access", "fields": fields})
        raise _refusal(caller, allowed, self._credentials)


CREDENTIALS_AT_GATEWAY = "an API key, an access token or a certificate"
_PROCESSES = (
    Role.ROLE_GATEWAY,
    Role.ROLE_GENERATION,
    Role.ROLE_MODEL,
    Role.ROLE_RUNTIME,
    Role.ROLE_ENGINE,
    Role.ROLE_ACCESS,
    Role.ROLE_JOBS,
    Role.ROLE_WORKER,
    Role.ROLE_TOOLS,
)
_CLIENTS = (Role.ROLE_CLIENT, Role.ROLE_ADMIN)
_FOREIGN_ROLES = {
    "opentelemetry.proto.collector.trace.v1.TraceService": _PROCESSES,
    "opentelemetry.proto.collector.metrics.v1.MetricsService": _PROCESSES,
    "opentelemetry.proto.collector.logs.v1.LogsService": _PROCESSES,
    # As of Generate, which its methods call.
    "inference.GRPCInferenceService": _CLIENTS,
}
"""Who may call the services whose contracts are not ours and cannot declare roles. Only gateways
serve them."""


def declared_rules(service: ServiceDescriptor) -> Iterator[tuple[str, rules_pb2.MethodRules]]:
    """The path of each method on the wire, and its rules."""
    foreign_roles = _FOREIGN_ROLES.get(service.full_name)
    methods: Iterable[Any] = service.methods
    for method in methods:
        path = f"/{service.full_name}/{method.name}"
        if foreign_roles is not None:
            yield path, rules_pb2.MethodRules(gateway_roles=foreign_roles)
        else:
            yield path, method.GetOptions().Extensions[rules_pb2.method_rules]


def format_roles(roles: Iterable[Role.ValueType]) -> str:
    """For example "admin, client"."""
    return ", ".join(sorted(Role.Name(role).removeprefix("ROLE_").lower() for role in roles))


def _refusal(
    caller: PeerIdentity, allowed: frozenset[Role.ValueType], credentials: str
) -> Exception:
    needed = format_roles(allowed) or "no role"
    if caller.role == Role.ROLE_UNSPECIFIED:
        return Unauthenticated(f"this method needs {credentials} of one of the roles {needed}")
    has = format_roles([caller.role])
    return PermissionDenied(f"the role {has} may not call this method; allowed: {needed}")
