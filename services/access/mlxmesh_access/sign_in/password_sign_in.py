"""Sign-in with a name and a password."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mlxmesh_access.accounts import user_rows
from mlxmesh_access.accounts.models import User, UserState
from mlxmesh_access.database import AccessDatabase
from mlxmesh_access.sign_in import rows
from mlxmesh_access.sign_in.passwords import Passwords
from mlxmesh_access.sign_in.sessions import IssuedTokens, Sessions
from mlxmesh_access.sign_in.throttle import SignInThrottle
from mlxmesh_shared.errors import MeshError, Unauthenticated
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

LEGAL_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")


class PasswordSignIn:
    """Verifies passwords, and begins sessions."""

    def __init__(
        self,
        database: AccessDatabase,
        passwords: Passwords,
        sessions: Sessions,
        throttle: SignInThrottle,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Uses the database, which its caller closes."""
        self._database = database
        self._passwords = passwords
        self._sessions = sessions
        self._throttle = throttle
        self._monotonic = monotonic

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    async def sign_in(self, name: str, password: str, host: str) -> IssuedTokens:
        """Begins a session. host: where the caller is, for the throttle.

        Raises: Unauthenticated, the same for a wrong name and a wrong password; TooManyRequests.
        """
        user = await self._verified(name, password, host)
        if user.state is not UserState.ACTIVE:
            await self._record_refusal(f"user:{name}", f"the user is {user.state}")
            raise not_active(user.state)
        new_hash = user.password_hash
        if self._passwords.is_outdated(new_hash):
            new_hash = await self._passwords.hash(password)
        await self._sessions.prepare()
        return await self._begin(user, new_hash)

    async def _verified(self, name: str, password: str, host: str) -> User:
        """The user, in whatever state, with this name and password."""
        self._throttle.begin(name, host, self._monotonic())
        try:
            user = await self._find(name)
            password_hash = user.password_hash if user else ""
            right = await self._passwords.matches(password_hash, password)
        except MeshError:
            self._throttle.abandoned(name, host)
            raise
        if user is None or not right:
            # An unknown name is not stored: it may be a password in the wrong place.
            await self._record_refusal(f"user:{name}" if user else "unknown user", "wrong password")
            raise wrong_name_or_password()
        self._throttle.succeeded(name, host)
        return user

    @uncancellable
    async def _find(self, name: str) -> User | None:
        if not LEGAL_NAME.fullmatch(name):
            return None  # PostgreSQL refuses some of these as text
        return await self.transactions.read(partial(user_rows.find_user, name=name))

    @uncancellable
    async def _begin(self, verified: User, new_hash: str) -> IssuedTokens:
        """Begins the session, unless the user was changed while its password was verified."""
        async with self._database.recording(f"user:{verified.name}") as change:
            user = await user_rows.find_user(change.session, verified.name)
            if user is None or user.password_hash != verified.password_hash:
                raise wrong_name_or_password()
            if user.state is not UserState.ACTIVE:
                raise not_active(user.state)
            await rows.signed_in(change.session, user.name, change.now_ms, new_hash)
            user = replace(user, last_sign_in_ms=change.now_ms)
            return await self._sessions.begin(change, user)

    @uncancellable
    async def _record_refusal(self, target: str, why: str) -> None:
        async with self._database.recording("anonymous") as change:
            await change.audit("sign_in.refused", target, why)


def wrong_name_or_password() -> Unauthenticated:
    """The refusal that tells nobody whether there is such a user."""
    return Unauthenticated("wrong name or password")


def not_active(state: UserState) -> Unauthenticated:
    """The refusal of a user who has proved who it is, but may not use the mesh."""
    if state is UserState.PENDING:
        return Unauthenticated("the user waits for the approval of an admin")
    return Unauthenticated("the user is disabled; ask an admin")
