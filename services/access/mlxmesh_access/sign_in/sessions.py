"""Sessions: begun by a sign-in, refreshed by their token, ended by sign-out, reuse or time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from mlxmesh_access.accounts import user_rows
from mlxmesh_access.accounts.models import User, UserState
from mlxmesh_access.database import AccessDatabase, Change
from mlxmesh_access.sign_in import refresh_tokens, rows
from mlxmesh_access.sign_in.refresh_tokens import (
    Judgement,
    RefreshToken,
    SessionLimits,
    StoredSession,
)
from mlxmesh_access.sign_in.token_signing import AccessToken, TokenSigning
from mlxmesh_shared.errors import Unauthenticated
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

MAX_SESSIONS_PER_USER = 100
"""One more ends the session that was refreshed least recently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedTokens:
    """What a client gets of a session."""

    user: User
    access: AccessToken
    refresh_token: str = field(repr=False)
    """A secret."""
    refresh_expires_ms: int


class Sessions:
    """The sessions of all users."""

    def __init__(
        self, database: AccessDatabase, signing: TokenSigning, limits: SessionLimits
    ) -> None:
        """Uses the database, which its caller closes."""
        self._database = database
        self._signing = signing
        self._limits = limits

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    async def prepare(self) -> None:
        """Must precede a transaction that begins a session. Raises: MeshError."""
        await self._signing.prepare()

    async def begin(self, change: Change, user: User) -> IssuedTokens:
        """Begins a session in the transaction of a sign-in; the user must be active."""
        token = refresh_tokens.new_token()
        stored = StoredSession(
            session_id=token.session_id,
            user=user.name,
            family_sha256=token.family_sha256,
            secret_sha256=token.secret_sha256,
            created_ms=change.now_ms,
            refreshed_ms=change.now_ms,
        )
        expires_ms = self._limits.expires_ms(stored)
        await rows.add_session(
            change.session, stored, expires_ms, max_sessions=MAX_SESSIONS_PER_USER
        )
        await change.audit("session.began", f"session:{token.session_id}")
        return await self._issued(change, user, token, expires_ms)

    @uncancellable
    async def refresh(self, text: str) -> IssuedTokens:
        """New tokens for a refresh token, which works once; a second use ends its session.

        Raises: Unauthenticated.
        """
        token = await self._known(text)
        if token is None:
            raise _refused()
        await self.prepare()
        async with self._database.recording("anonymous") as change:
            issued = await self._refreshed(change, token)
        # Not within the transaction, which would undo the end of the session.
        if issued is None:
            raise _refused()
        return issued

    @uncancellable
    async def end(self, text: str) -> None:
        """Ends the session of a refresh token; an unknown token is no error."""
        token = await self._known(text)
        if token is None:
            return
        async with self._database.recording("anonymous") as change:
            stored = await rows.find_session(change.session, token.session_id)
            judgement = refresh_tokens.judge(token, stored, self._limits, change.now_ms)
            if stored is not None and judgement is not Judgement.UNKNOWN:
                await rows.end_session(change.session, stored.session_id)
                by_user = replace(change, actor=f"user:{stored.user}")
                await by_user.audit("session.ended", f"session:{stored.session_id}")

    async def _known(self, text: str) -> RefreshToken | None:
        """A token that was issued for a session that lasts; others must not cost a transaction."""
        token = refresh_tokens.parse(text)
        if token is None:
            return None
        find = partial(rows.find_session, session_id=token.session_id)
        stored = await self.transactions.read(find)
        judgement = refresh_tokens.judge(token, stored, self._limits, self._database.clock())
        return None if judgement is Judgement.UNKNOWN else token

    async def _refreshed(self, change: Change, token: RefreshToken) -> IssuedTokens | None:
        stored = await rows.find_session(change.session, token.session_id)
        judgement = refresh_tokens.judge(token, stored, self._limits, change.now_ms)
        if stored is None or judgement is Judgement.UNKNOWN:
            return None
        user = await user_rows.find_user(change.session, stored.user)
        if judgement is Judgement.REUSED:
            await rows.end_session(change.session, stored.session_id)
            details = f"of user:{stored.user}: a refresh token was used twice"
            await change.audit("session.revoked", f"session:{stored.session_id}", details)
        elif judgement is Judgement.EXPIRED or user is None or user.state is not UserState.ACTIVE:
            await rows.end_session(change.session, stored.session_id)
        else:
            return await self._renewed(change, stored, user, token.next())
        return None

    async def _renewed(
        self, change: Change, stored: StoredSession, user: User, token: RefreshToken
    ) -> IssuedTokens:
        stored = replace(stored, secret_sha256=token.secret_sha256, refreshed_ms=change.now_ms)
        expires_ms = self._limits.expires_ms(stored)
        await rows.refresh_session(change.session, stored, expires_ms)
        return await self._issued(change, user, token, expires_ms)

    async def _issued(
        self, change: Change, user: User, token: RefreshToken, expires_ms: int
    ) -> IssuedTokens:
        access = await self._signing.sign(change.session, user, token.session_id, change.now_ms)
        return IssuedTokens(
            user=user, access=access, refresh_token=token.text, refresh_expires_ms=expires_ms
        )


def _refused() -> Unauthenticated:
    return Unauthenticated("the session has ended: sign in again", field="refresh_token")
