"""The steps of a public call before its request is read: authenticate, authorize, quota,
concurrency.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mlxmesh_gateway.door.evidence import Evidence
from mlxmesh_gateway.door.principal import Kind, Principal
from mlxmesh_shared.resilience.admission import CallAdmission
from mlxmesh_shared.tls.identity import PeerIdentity, Role
from mlxmesh_shared.tls.method_access import MethodAccess


class Authenticator(Protocol):
    """Verifies what callers present."""

    async def authenticate(self, evidence: Evidence) -> Principal:
        """The caller. Raises: Unauthenticated, AccessUnavailable."""
        ...


class Quotas(Protocol):
    """What a principal may still use."""

    def admit(self, method: str, principal: Principal) -> Callable[[], None]:
        """Counts a call against the principal's quotas; call the result at its end.

        Raises: QuotaExceeded, with a time to retry.
        """
        ...


class CertificateAuthenticator:
    """Knows certificates only; satisfies Authenticator.

    Callers without one have `anonymous_role`: all of them without TLS.
    """

    def __init__(self, anonymous_role: Role.ValueType) -> None:
        self._anonymous_role = anonymous_role

    async def authenticate(self, evidence: Evidence) -> Principal:
        certificate = evidence.certificate
        return Principal(
            kind=Kind.CERTIFICATE if certificate.spiffe_id else Kind.ANONYMOUS,
            identity=certificate.spiffe_id,
            role=certificate.role or self._anonymous_role,
            claimed_name=evidence.claimed_name,
            host=evidence.host,
        )


class NoQuotas:
    """Satisfies Quotas: nobody has one."""

    def admit(self, method: str, principal: Principal) -> Callable[[], None]:
        return _nothing


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call that was let in; `release` must be called at its end."""

    principal: Principal
    release: Callable[[], None]


class Entrance:
    """Lets calls of every protocol in."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        access: MethodAccess | None,
        quotas: Quotas,
        admission: CallAdmission,
    ) -> None:
        """access: None lets every caller call every method, as on a mesh without TLS or users."""
        self._authenticator = authenticator
        self._access = access
        self._quotas = quotas
        self._admission = admission

    async def admit(self, method: str, evidence: Evidence, *, counted: bool = True) -> Admitted:
        """Lets a call in.

        method: as on the wire, /package.Service/Method.
        counted: False for methods of the mesh itself, which no limit counts.
        Raises: Unauthenticated, PermissionDenied, MethodNotFound, QuotaExceeded, TooManyRequests,
        AccessUnavailable.
        """
        principal = await self._authenticator.authenticate(evidence)
        if self._access is not None:
            identity = PeerIdentity(principal.identity, principal.role)
            self._access.check_identity(method, identity, lambda: evidence.host)
        if not counted:
            return Admitted(principal, _nothing)
        return self._counted(method, principal)

    def resize(self, limit: int, *, per_caller: int | None) -> None:
        """Changes the limit of concurrent calls; running calls continue."""
        self._admission.resize(limit, per_caller=per_caller)

    def _counted(self, method: str, principal: Principal) -> Admitted:
        end_quota = self._quotas.admit(method, principal)
        try:
            self._admission.admit(principal.share)
        except BaseException:
            end_quota()
            raise

        def release() -> None:
            self._admission.release(principal.share)
            end_quota()

        return Admitted(principal, release)
