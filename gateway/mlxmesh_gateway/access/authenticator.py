"""Who a caller is, by an API key, an access token or a certificate."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from mlxmesh_gateway.access.policies import Key, Policies, User
from mlxmesh_gateway.access.requirement import Requirement
from mlxmesh_gateway.access.watch import PolicyWatch, away
from mlxmesh_gateway.door.entrance import by_certificate
from mlxmesh_gateway.door.evidence import Evidence
from mlxmesh_gateway.door.principal import Kind, Principal
from mlxmesh_shared.errors import Unauthenticated
from mlxmesh_shared.tls.identity import Role

if TYPE_CHECKING:
    from mlxmesh_shared.access_tokens import AccessTokenVerifier

MAX_CREDENTIAL_BYTES = 4096
MAX_REFUSED = 4096
REFUSED_S = 5.0
"""How long a credential that the access service does not know is refused without asking again."""
DECIDE_S = 1.0
"""How long a call waits for the first policies of an access service that has just started."""


class AccessAuthenticator:
    """Satisfies Authenticator.

    A caller with a credential is who that says, or nobody; one without is its certificate's
    identity, or anonymous. Unknown credentials wait until the policies are as new as the
    service's, and are then refused at once for a while, so that guessing costs others nothing.
    """

    def __init__(
        self,
        policies: Policies,
        watch: PolicyWatch,
        requirement: Requirement,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """clock: Unix time in seconds."""
        self._policies = policies
        self._watch = watch
        self._requirement = requirement
        self._clock = clock
        self._refused = Refused()
        self._verifier: tuple[str, AccessTokenVerifier] | None = None

    async def authenticate(self, evidence: Evidence) -> Principal:
        waits = self._requirement.knows_no_credentials_yet and bool(evidence.credential)
        if self._requirement.undecided or waits:
            await self._watch.decided(DECIDE_S)
        if evidence.credential and self._requirement.knows_no_credentials_yet:
            raise away()
        if not evidence.credential or not self._requirement.checks_credentials:
            principal = by_certificate(evidence, self._requirement.anonymous_role(evidence.host))
            return replace(principal, authentication_is_off=self._requirement.is_off)
        if len(evidence.credential) > MAX_CREDENTIAL_BYTES:
            raise _unknown_key()
        digest = sha256(evidence.credential.encode(errors="replace")).digest()
        if (principal := self._known(evidence, digest)) is not None:
            return principal
        if self._refused.has(digest, self._clock()):
            raise _unknown_key()
        await self._watch.catch_up()
        if (principal := self._known(evidence, digest)) is not None:
            return principal
        self._refused.add(digest, self._clock())
        raise _unknown_key()

    def _known(self, evidence: Evidence, digest: bytes) -> Principal | None:
        """Whose credential it is; None if newer policies may say. Raises: Unauthenticated."""
        key = self._policies.key(digest, self._clock())
        if key is not None:
            return self._of_key(key, evidence)
        from mlxmesh_shared.access_tokens import may_be_access_token

        if not may_be_access_token(evidence.credential):
            return None
        user = self._session_user(evidence.credential)
        return None if user is None else _of_user(user, evidence)

    def _of_key(self, key: Key, evidence: Evidence) -> Principal:
        user = self._policies.user(key.user)
        return Principal(
            kind=Kind.KEY,
            identity=f"key:{key.key_id}",
            role=_role(key.is_admin),
            claimed_name=evidence.claimed_name,
            host=evidence.host,
            user=key.user,
            team=user.team if user is not None else "",
            key_id=key.key_id,
            models=key.models,
        )

    def _session_user(self, token: str) -> User | None:
        verifier = self._current_verifier()
        if not verifier.knows_key(token):
            return None
        unknown: list[str] = []

        def valid_from_s(name: str) -> float | None:
            user = self._policies.user(name)
            if user is None:
                unknown.append(name)
            return None if user is None else user.tokens_valid_from_s

        try:
            claims = verifier.verify(token, self._clock(), tokens_valid_from=valid_from_s)
        except Unauthenticated:
            if unknown:
                return None
            raise
        return self._policies.user(claims.user)

    def _current_verifier(self) -> AccessTokenVerifier:
        from mlxmesh_shared.access_tokens import AccessTokenVerifier

        jwks_json = self._policies.jwks_json
        if self._verifier is None or self._verifier[0] != jwks_json:
            self._verifier = jwks_json, AccessTokenVerifier(jwks_json)
        return self._verifier[1]


class Refused:
    """The hashes of credentials that were refused lately; bounded."""

    def __init__(self, max_entries: int = MAX_REFUSED, retention_s: float = REFUSED_S) -> None:
        self._max_entries = max_entries
        self._retention_s = retention_s
        self._until_s: OrderedDict[bytes, float] = OrderedDict()

    def has(self, digest: bytes, now_s: float) -> bool:
        return self._until_s.get(digest, 0.0) > now_s

    def add(self, digest: bytes, now_s: float) -> None:
        self._until_s[digest] = now_s + self._retention_s
        self._until_s.move_to_end(digest)
        if len(self._until_s) > self._max_entries:
            self._until_s.popitem(last=False)


def _of_user(user: User, evidence: Evidence) -> Principal:
    return Principal(
        kind=Kind.USER,
        identity=f"user:{user.name}",
        role=_role(user.is_admin),
        claimed_name=evidence.claimed_name,
        host=evidence.host,
        user=user.name,
        team=user.team,
    )


def _role(is_admin: bool) -> Role.ValueType:
    return Role.ROLE_ADMIN if is_admin else Role.ROLE_CLIENT


def _unknown_key() -> Unauthenticated:
    return Unauthenticated(
        "the API key or access token is not valid here: it may have been revoked or have expired"
    )
