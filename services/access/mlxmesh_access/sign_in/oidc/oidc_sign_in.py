"""Sign-in at an OpenID Connect issuer: begun with a redirect, ended with a code."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from mlxmesh_access.accounts import user_rows
from mlxmesh_access.accounts.models import User, UserState
from mlxmesh_access.database import AccessDatabase
from mlxmesh_access.sign_in import rows
from mlxmesh_access.sign_in.oidc import id_tokens
from mlxmesh_access.sign_in.oidc.id_tokens import Expected, Identity
from mlxmesh_access.sign_in.oidc.identities import Identities
from mlxmesh_access.sign_in.oidc.issuer import Issuer
from mlxmesh_access.sign_in.oidc.redirects import is_allowed
from mlxmesh_access.sign_in.oidc.requests import (
    Exchange,
    SignInSecrets,
    authorization_url,
    new_state,
    state_sha256,
)
from mlxmesh_access.sign_in.password_sign_in import not_active
from mlxmesh_access.sign_in.sessions import IssuedTokens, Sessions
from mlxmesh_access.sign_in.throttle import Limit, Throttle, network_of
from mlxmesh_shared.errors import InvalidArgument, TooManyRequests, Unauthenticated
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

PENDING_S = 600
"""How long a sign-in that has begun may take."""
MAX_PENDING = 10_000
"""Sign-ins that have begun and not ended; anyone may begin one."""
BEGUN_BY_HOST = Limit(free=60, max_delay_s=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcClient:
    """Who this mesh is to the issuer."""

    issuer: str
    client_id: str
    redirect_uris: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BegunSignIn:
    """Where the browser goes, and the state with which it comes back."""

    url: str
    state: str


class OidcSignIn:
    """Signs the users of one issuer in."""

    def __init__(
        self,
        database: AccessDatabase,
        sessions: Sessions,
        identities: Identities,
        issuer: Issuer,
        client: OidcClient,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Uses the database and the issuer, which its caller closes."""
        self._database = database
        self._sessions = sessions
        self._identities = identities
        self._issuer = issuer
        self._client = client
        self._monotonic = monotonic
        self._throttle = Throttle(BEGUN_BY_HOST)

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    async def begin(self, redirect_uri: str, host: str) -> BegunSignIn:
        """Begins a sign-in.

        Raises: InvalidArgument for a URI that is not allowed; TooManyRequests, IssuerUnavailable.
        """
        if not is_allowed(redirect_uri, self._client.redirect_uris):
            raise InvalidArgument(
                "redirect_uri is not among oidc_redirect_uris", field="redirect_uri"
            )
        self._throttle.begin(network_of(host), self._monotonic())
        endpoint = await self._issuer.authorization_endpoint()
        state, secrets = new_state(), SignInSecrets()
        await self._store(state, secrets, redirect_uri)
        url = authorization_url(
            endpoint,
            client_id=self._client.client_id,
            redirect_uri=redirect_uri,
            state=state,
            secrets=secrets,
        )
        return BegunSignIn(url, state)

    async def complete(self, state: str, code: str) -> IssuedTokens:
        """Begins a session with what the issuer sent back; each state works once.

        Raises: Unauthenticated, PermissionDenied, UserExists, IllegalState, IssuerUnavailable.
        """
        secrets, redirect_uri = await self._taken(state)
        token = await self._issuer.id_token(
            Exchange(code=code, code_verifier=secrets.code_verifier, redirect_uri=redirect_uri)
        )
        identity = await self._verified(token, secrets.nonce)
        user = await self._identities.user_of(identity)
        await self._sessions.prepare()
        return await self._begin(user)

    @uncancellable
    async def _store(self, state: str, secrets: SignInSecrets, redirect_uri: str) -> None:
        async with self._database.recording("anonymous") as change:
            if await rows.count_pending(change.session, change.now_ms) >= MAX_PENDING:
                raise TooManyRequests("too many sign-ins have begun", retry_delay_s=PENDING_S)
            await rows.add_pending(
                change.session,
                state_sha256=state_sha256(state),
                encrypted=secrets.encrypted(state),
                redirect_uri=redirect_uri,
                expires_ms=change.now_ms + PENDING_S * 1000,
            )

    @uncancellable
    async def _taken(self, state: str) -> tuple[SignInSecrets, str]:
        hashed = state_sha256(state)
        # A made-up state must not cost a transaction that others wait for.
        if not await self.transactions.read(partial(rows.is_pending, state_sha256=hashed)):
            raise _expired()
        async with self._database.recording("anonymous") as change:
            taken = await rows.take_pending(change.session, hashed, change.now_ms)
        secrets = SignInSecrets.decrypted(state, taken[0]) if taken else None
        if taken is None or secrets is None:
            raise _expired()
        return secrets, taken[1]

    async def _verified(self, token: str, nonce: str) -> Identity:
        expected = Expected(
            issuer=self._client.issuer, client_id=self._client.client_id, nonce=nonce
        )
        now_s = self._database.clock() / 1000
        try:
            return id_tokens.verify(token, await self._issuer.keys(), expected, now_s)
        except id_tokens.UnknownKey:
            keys = await self._issuer.keys(newer=True)
        try:
            return id_tokens.verify(token, keys, expected, now_s)
        except id_tokens.UnknownKey:
            raise Unauthenticated("the issuer does not publish the ID token's key") from None

    @uncancellable
    async def _begin(self, verified: User) -> IssuedTokens:
        async with self._database.recording(f"user:{verified.name}") as change:
            user = await user_rows.find_user(change.session, verified.name)
            if user is not None and user.state is UserState.ACTIVE:
                await rows.signed_in(change.session, user.name, change.now_ms, user.password_hash)
                user = replace(user, last_sign_in_ms=change.now_ms)
                return await self._sessions.begin(change, user)
            if user is not None:
                details = f"the user is {user.state}"
                await change.audit("sign_in.refused", f"user:{user.name}", details)
        raise not_active(user.state if user else UserState.DISABLED)


def _expired() -> Unauthenticated:
    return Unauthenticated("the sign-in has expired; begin again", field="state")
