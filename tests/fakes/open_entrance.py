"""An entrance to which everybody is an admin, and may do everything."""

from __future__ import annotations

from mlxmesh_gateway.door.entrance import Entrance, NoQuotas
from mlxmesh_gateway.door.evidence import Evidence
from mlxmesh_gateway.door.principal import Kind, Principal
from mlxmesh_shared.resilience.admission import CallAdmission
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter
from mlxmesh_shared.tls.identity import Role


class _Anybody:
    async def authenticate(self, evidence: Evidence) -> Principal:
        return Principal(
            kind=Kind.ANONYMOUS,
            identity="",
            role=Role.ROLE_ADMIN,
            claimed_name=evidence.claimed_name,
            host=evidence.host,
        )


class _Anything:
    def is_open(self, method: str) -> bool:
        return True

    def authorize(self, method: str, principal: Principal) -> None: ...


def open_entrance(limiter: ConcurrencyLimiter) -> Entrance:
    """The entrance, with a limit of concurrent calls."""
    return Entrance(
        authenticator=_Anybody(),
        authorizer=_Anything(),
        quotas=NoQuotas(),
        admission=CallAdmission(limiter),
    )
