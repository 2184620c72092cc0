"""The steps of a public call before its request is read: authenticate, authorize, quota,
concurrency.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from mlxmesh_gateway.door.evidence import Evidence
from mlxmesh_gateway.door.principal import Kind, Principal
from mlxmesh_shared.errors import Unauthenticated
from mlxmesh_shared.resilience.admission import CallAdmission
from mlxmesh_shared.tls.identity import Role
from mlxmesh_shared.tls.method_access import CREDENTIALS_AT_GATEWAY


class Authenticator(Protocol):
    """Verifies what callers present."""

    async def authenticate(self, evidence: Evidence) -> Principal:
        """The caller. Raises: Unauthenticated, AccessUnavailable."""
        ...


class Quotas(Protocol):
    """What a principal may still use."""

    async def check(self, method: str, principal: Principal) -> None:
        """Refuses a call whose principal has used up a quota, before its request is read.

        May wait for a moment until it is known whether something is left.
        The door charges the call to the quotas once it has read the request.
        Raises: QuotaExceeded, with a time to retry.
        """
        ...


class Authorizer(Protocol):
    """Which methods a principal may call."""

    def is_open(self, method: str) -> bool:
        """Whether callers without credentials may call the method."""
        ...

    def authorize(self, method: str, principal: Principal) -> None:
        """Raises: Unauthenticated, PermissionDenied, MethodNotFound."""
        ...


class CertificateAuthenticator:
    """Knows certificates only; satisfies Authenticator.

    Callers without a role in their certificate have `anonymous_role`.
    """

    def __init__(self, anonymous_role: Role.ValueType) -> None:
        self._anonymous_role = anonymous_role

    async def authenticate(self, evidence: Evidence) -> Principal:
        return by_certificate(evidence, self._anonymous_role)


def by_certificate(evidence: Evidence, anonymous_role: Role.ValueType) -> Principal:
    """The principal of a certificate; without one, an anonymous one."""
    certificate = evidence.certificate
    return Principal(
        kind=Kind.CERTIFICATE if certificate.spiffe_id else Kind.ANONYMOUS,
        identity=certificate.spiffe_id,
        role=certificate.role or anonymous_role,
        claimed_name=evidence.claimed_name,
        host=evidence.host,
    )


class NoQuotas:
    """Satisfies Quotas: nobody has one."""

    async def check(self, method: str, principal: Principal) -> None: ...


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
        access: Authorizer | None,
        quotas: Quotas,
        admission: CallAdmission,
    ) -> None:
        """access: None lets every caller call every method."""
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
        access = self._access
        if access is not None and access.is_open(method):
            # Who signs in again may still send what has expired.
            evidence = replace(evidence, credential="")
        principal = await self._authenticator.authenticate(evidence)
        if access is not None:
            access.authorize(method, principal)
        if not counted:
            return Admitted(principal, _nothing)
        return await self._counted(method, principal)

    async def check_known(self, evidence: Evidence) -> None:
        """Lets in whoever has a role, to what is no method.

        Raises: Unauthenticated, AccessUnavailable.
        """
        principal = await self._authenticator.authenticate(evidence)
        if not principal.role:
            raise Unauthenticated(f"this needs {CREDENTIALS_AT_GATEWAY}")

    def resize(self, limit: int, *, per_caller: int | None) -> None:
        """Changes the limit of concurrent calls; running calls continue."""
        self._admission.resize(limit, per_caller=per_caller)

    async def _counted(self, method: str, principal: Principal) -> Admitted:
        self._admission.admit(principal.share)  # first, so that few calls wait for a quota
        try:
            await self._quotas.check(method, principal)
        except BaseException:
            self._admission.release(principal.share)
            raise
        return Admitted(principal, partial(self._admission.release, principal.share))
