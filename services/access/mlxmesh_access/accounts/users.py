"""Creating, changing and removing users."""

from dataclasses import replace
from functools import partial

from mlxmesh_access.accounts import rules, user_rows
from mlxmesh_access.accounts.acting import changing
from mlxmesh_access.accounts.models import User, UserChange, UserKind, UserState
from mlxmesh_access.accounts.passwords import PasswordHashes, check_password
from mlxmesh_access.database import AccessDatabase, Change
from mlxmesh_shared.errors import (
    InvalidArgument,
    PermissionDenied,
    TooManyRequests,
    Unauthenticated,
    UserExists,
)
from mlxmesh_shared.rpc.caller import ForwardedCaller as Caller
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

MAX_PENDING_USERS = 1000
"""Users who wait for approval; further ones are refused, because anyone may sign up."""
_RETRY_SIGN_UP_S = 3600


class Users:
    """The users and service accounts."""

    def __init__(
        self,
        database: AccessDatabase,
        passwords: PasswordHashes,
        *,
        sign_up: bool,
        needs_password: bool = True,
    ) -> None:
        """Uses the database, which its caller closes.

        sign_up: whether anyone may ask for a user.
        needs_password: whether every person has one, because there is no other way to sign in.
        """
        self._database = database
        self._passwords = passwords
        self._sign_up = sign_up
        self._needs_password = needs_password

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    @uncancellable
    async def create(self, caller: Caller, user: User, password: str) -> User:
        """Creates an active user; the first one must be an admin.

        Raises: PermissionDenied, InvalidArgument, UserExists, IllegalState.
        """
        rules.require_admin(caller)
        user = replace(user, password_hash=await self._hash_of(user, password))
        async with changing(self._database, caller) as change:
            user = await _added(change, user)
            details = f"{user.kind}, role {user.role}" + (f", team {user.team}" * bool(user.team))
            await change.audit("user.created", f"user:{user.name}", details)
        return user

    @uncancellable
    async def sign_up(self, name: str, password: str) -> User:
        """Creates a user who waits for approval.

        Raises: PermissionDenied, InvalidArgument, UserExists, IllegalState, TooManyRequests.
        """
        if not self._sign_up:
            raise PermissionDenied("sign-up is not allowed here; ask an admin for a user")
        hashed = await self._passwords.hash(check_password(password))
        user = User(name=name, state=UserState.PENDING, password_hash=hashed)
        async with self._database.changing(f"user:{name}") as change:
            if await user_rows.count_pending(change.session) >= MAX_PENDING_USERS:
                raise TooManyRequests(
                    "too many users wait for approval; ask an admin",
                    retry_delay_s=_RETRY_SIGN_UP_S,
                )
            user = await _added(change, user)
            await change.audit("user.signed_up", f"user:{name}")
        return user

    @uncancellable
    async def get(self, caller: Caller, name: str) -> User:
        """One user, by default the caller's own. Raises: UserNotFound."""
        name = rules.visible_user(caller, name, field="name")
        return await self.transactions.read(partial(existing_user, name=name))

    @uncancellable
    async def list(self, caller: Caller, *, after: str, limit: int) -> list[User]:
        """The users whose name sorts after `after`. Raises: PermissionDenied."""
        rules.require_admin(caller)
        return await self.transactions.read(partial(user_rows.list_users, after=after, limit=limit))

    @uncancellable
    async def update(
        self, caller: Caller, name: str, wanted: UserChange, old_password: str
    ) -> User:
        """Changes a user. Ends its sessions where it is disabled or its password changes.

        Raises: UserNotFound, PermissionDenied, InvalidArgument, IllegalState; Unauthenticated for a
        wrong old password.
        """
        rules.visible_user(caller, name, field="name")
        user = await self.transactions.read(partial(existing_user, name=name))
        rules.check_change(caller, user, wanted)
        hashed = ""
        if wanted.password is not None:
            if not caller.is_admin:
                await self._check_old_password(user, old_password)
            # Outside the transaction: hashing is slow, and all writers would wait for it.
            hashed = await self._passwords.hash(check_password(wanted.password))
        async with changing(self._database, caller) as change:
            return await _changed(change, name, wanted, hashed, checked_hash=user.password_hash)

    @uncancellable
    async def delete(self, caller: Caller, name: str) -> None:
        """Removes a user with its keys, sessions and quotas.

        Raises: PermissionDenied, UserNotFound, IllegalState.
        """
        rules.require_admin(caller)
        async with changing(self._database, caller) as change:
            user = await existing_user(change.session, name=name)
            admins = await user_rows.count_other_admins(change.session, name)
            rules.check_an_admin_remains(user, None, admins)
            await user_rows.delete_user(change.session, name)
            await change.audit("user.deleted", f"user:{name}")

    async def _hash_of(self, user: User, password: str) -> str:
        """The hash of a new user's password; empty for a user without one."""
        if user.kind is UserKind.SERVICE_ACCOUNT and password:
            raise InvalidArgument("a service account has no password", field="password")
        if password:
            return await self._passwords.hash(check_password(password))
        if user.kind is UserKind.PERSON and self._needs_password:
            raise InvalidArgument("a person needs a password", field="password")
        return ""

    async def _check_old_password(self, user: User, password: str) -> None:
        if not password:
            raise InvalidArgument("old_password is required", field="old_password")
        if not await self._passwords.matches(user.password_hash, password):
            raise Unauthenticated("old_password is wrong", field="old_password")


async def existing_user(session: Session, *, name: str, field: str = "name") -> User:
    """A user. Raises: UserNotFound."""
    user = await user_rows.find_user(session, name)
    if user is None:
        raise rules.user_not_found(name, field=field)
    return user


async def _added(change: Change, user: User) -> User:
    session = change.session
    rules.check_first_user(is_first=not await user_rows.has_users(session), user=user)
    if await user_rows.find_user(session, user.name) is not None:
        raise UserExists(f"there is a user {user.name}", field="name")
    # Tokens of a removed user of this name are not this one's.
    user = replace(user, created_ms=change.now_ms, tokens_valid_from_ms=change.now_ms)
    await user_rows.put_user(session, user)
    return user


async def _changed(
    change: Change, name: str, wanted: UserChange, hashed: str, *, checked_hash: str
) -> User:
    """Stores what is wanted of a user, as it is now."""
    before = await existing_user(change.session, name=name)
    if hashed and before.password_hash != checked_hash:
        raise Unauthenticated("the password was changed meanwhile", field="old_password")
    after = replace(
        before,
        state=wanted.state or before.state,
        role=wanted.role or before.role,
        team=before.team if wanted.team is None else wanted.team,
        password_hash=hashed or before.password_hash,
    )
    if hashed or (after.state is not before.state and after.state is UserState.DISABLED):
        after = replace(after, tokens_valid_from_ms=change.now_ms)
        await user_rows.end_sessions(change.session, name)
    others = await user_rows.count_other_admins(change.session, name)
    rules.check_an_admin_remains(before, after, others)
    await user_rows.put_user(change.session, after)
    await change.audit("user.changed", f"user:{name}", _difference(before, after))
    return after


def _difference(before: User, after: User) -> str:
    """What changed, without the password."""
    pairs = [
        (name, getattr(before, name), getattr(after, name)) for name in ("state", "role", "team")
    ]
    parts = [f"{name} {old or 'none'} -> {new or 'none'}" for name, old, new in pairs if old != new]
    if before.password_hash != after.password_hash:
        parts.append("password")
    return ", ".join(parts)
