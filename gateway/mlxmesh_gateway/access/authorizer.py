"""Which methods a principal may call."""

from __future__ import annotations

from mlxmesh_gateway.access.requirement import Requirement, is_this_host
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_shared.errors import AccessUnavailable
from mlxmesh_shared.tls.identity import PeerIdentity
from mlxmesh_shared.tls.method_access import MethodAccess


class RoleAuthorizer:
    """Satisfies Authorizer by the roles that the contracts declare.

    Without TLS and without authentication everybody may call everything. With authentication but
    without TLS, processes of the mesh have nothing to prove their role with: what only they may
    call is open to this host.
    """

    def __init__(self, access: MethodAccess, requirement: Requirement) -> None:
        self._access = access
        self._requirement = requirement

    def is_open(self, method: str) -> bool:
        return self._access.is_open(method)

    def authorize(self, method: str, principal: Principal) -> None:
        if not self._requirement.tls:
            if not self._requirement.on:
                return
            if self._access.is_for_processes(method) and is_this_host(principal.host):
                return
        if self._requirement.undecided and not principal.is_authenticated:
            raise AccessUnavailable(
                "this gateway does not know yet who may call it, since the access service does not"
                " answer; try again later",
                retry_delay_s=1.0,
            )
        identity = PeerIdentity(principal.identity, principal.role)
        self._access.check_identity(method, identity, lambda: principal.host)
