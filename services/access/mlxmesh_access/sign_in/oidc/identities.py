"""Users of identities that an issuer has authenticated.

A user is bound to the issuer's subject, never to a name: names and addresses are given to others.
"""

from __future__ import annotations

from dataclasses import replace

from mlxmesh_access.accounts import user_rows
from mlxmesh_access.accounts.models import User, UserKind, UserState
from mlxmesh_access.accounts.rules import check_first_user
from mlxmesh_access.accounts.users import MAX_PENDING_USERS
from mlxmesh_access.database import AccessDatabase, Change
from mlxmesh_access.sign_in.oidc.id_tokens import Identity, user_name
from mlxmesh_shared.errors import TooManyRequests, UserExists
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

_RETRY_S = 3600


class Identities:
    """Finds the users of identities, and creates or binds them at their first sign-in."""

    def __init__(self, database: AccessDatabase, *, name_claim: str, approve: bool) -> None:
        """Uses the database, which its caller closes.

        name_claim: the claim that is the name of a new user.
        approve: whether new users are active at once.
        """
        self._database = database
        self._name_claim = name_claim
        self._approve = approve

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    @uncancellable
    async def user_of(self, identity: Identity) -> User:
        """The user of an identity, in whatever state.

        Raises: PermissionDenied, UserExists, IllegalState, TooManyRequests.
        """
        user = await self.transactions.read(lambda session: _find(session, identity))
        if user is not None:
            return user
        name = user_name(identity, self._name_claim)
        async with self._database.changing(f"user:{name}") as change:
            # Another call may have bound it meanwhile.
            bound = await _find(change.session, identity)
            return bound or await self._bound(change, name, identity)

    async def _bound(self, change: Change, name: str, identity: Identity) -> User:
        """Binds a person without a password, whom an admin has created for that, or a new user."""
        user = await user_rows.find_user(change.session, name)
        action = "user.bound" if user else "user.signed_up"
        if user is None:
            user = await self._new(change, name)
        elif user.kind is not UserKind.PERSON or user.password_hash or user.oidc_subject:
            raise UserExists(f"the name {name} belongs to another user; ask an admin")
        user = replace(user, oidc_issuer=identity.issuer, oidc_subject=identity.subject)
        await user_rows.put_user(change.session, user)
        await change.audit(action, f"user:{name}", f"by {identity.issuer}, {user.state}")
        return user

    async def _new(self, change: Change, name: str) -> User:
        state = UserState.ACTIVE if self._approve else UserState.PENDING
        user = User(name=name, state=state, created_ms=change.now_ms)
        check_first_user(is_first=not await user_rows.has_users(change.session), user=user)
        pending = await user_rows.count_pending(change.session)
        if state is UserState.PENDING and pending >= MAX_PENDING_USERS:
            raise TooManyRequests(
                "too many users wait for approval; ask an admin", retry_delay_s=_RETRY_S
            )
        return user


async def _find(session: Session, identity: Identity) -> User | None:
    return await user_rows.find_oidc_user(session, identity.issuer, identity.subject)
