"""An entrance to which everybody is an admin, and may do everything."""

from __future__ import annotations

from mlxmesh_gateway.door.entrance import CertificateAuthenticator, Entrance, NoQuotas
from mlxmesh_shared.resilience.admission import CallAdmission
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter
from mlxmesh_shared.tls.identity import Role


def open_entrance(limiter: ConcurrencyLimiter) -> Entrance:
    """The entrance, with a limit of concurrent calls."""
    return Entrance(
        authenticator=CertificateAuthenticator(Role.ROLE_ADMIN),
        access=None,
        quotas=NoQuotas(),
        admission=CallAdmission(limiter),
    )
