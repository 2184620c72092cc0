"""Creating, listing and revoking API keys."""

from dataclasses import dataclass, field, replace
from functools import partial

from mlxmesh_access.accounts import key_rows, rules
from mlxmesh_access.accounts.acting import changing
from mlxmesh_access.accounts.key_text import KeyText, new_key_text
from mlxmesh_access.accounts.models import Key, Role
from mlxmesh_access.accounts.users import existing_user
from mlxmesh_access.database import AccessDatabase
from mlxmesh_shared.errors import IllegalState, InvalidArgument
from mlxmesh_shared.rpc.caller import ForwardedCaller as Caller
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

MAX_KEYS_PER_USER = 1000
"""Working keys of one user; every gateway holds them all in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """The key to create; what is empty has its default."""

    name: str
    user: str = ""
    role: Role = Role.MEMBER
    models: tuple[str, ...] = ()
    expires_ms: int = 0


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A key, and its text, which is never known again."""

    key: Key
    text: str = field(repr=False)


class Keys:
    """The API keys."""

    def __init__(self, database: AccessDatabase) -> None:
        """Uses the database, which its caller closes."""
        self._database = database

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    @uncancellable
    async def create(self, caller: Caller, wanted: NewKey) -> CreatedKey:
        """Creates a key.

        Raises: InvalidArgument, PermissionDenied, UserNotFound, IllegalState.
        """
        text = new_key_text()
        async with changing(self._database, caller) as change:
            session = change.session
            key = _key(text, wanted, _owner(caller, wanted.user), change.now_ms)
            owner = await existing_user(session, name=key.user, field="user")
            rules.check_new_key(caller, owner, key, await _calling_key(session, caller))
            if await key_rows.count_working_keys(session, key.user, change.now_ms) >= (
                MAX_KEYS_PER_USER
            ):
                raise IllegalState(f"{key.user} has {MAX_KEYS_PER_USER} keys; revoke some first")
            await key_rows.put_key(session, key)
            details = f"of user:{key.user}, role {key.role}"
            await change.audit("key.created", f"key:{key.key_id}", details)
        return CreatedKey(key, text.text)

    @uncancellable
    async def list(
        self, caller: Caller, *, user: str, revoked: bool, before: tuple[int, str], limit: int
    ) -> list[Key]:
        """The keys that were created before a time and id, the newest first.

        user: default the caller's own, for an admin all. Raises: UserNotFound.
        """
        if user or not caller.is_admin:
            user = rules.visible_user(caller, user, field="user")
        found = partial(key_rows.list_keys, user=user, revoked=revoked, before=before, limit=limit)
        return await self.transactions.read(found)

    @uncancellable
    async def revoke(self, caller: Caller, key_id: str) -> Key:
        """Revokes a key, named by its id or prefix, for ever. Raises: KeyNotFound."""
        async with changing(self._database, caller) as change:
            key = await existing_key(change.session, key_id)
            rules.check_key_visible(caller, key)
            if not key.revoked_ms:
                key = replace(key, revoked_ms=change.now_ms)
                await key_rows.put_key(change.session, key)
                await change.audit("key.revoked", f"key:{key.key_id}")
        return key


async def existing_key(session: Session, key_id: str, *, field: str = "key_id") -> Key:
    """A key, by its id or prefix. Raises: KeyNotFound."""
    key = await key_rows.find_key(session, key_id)
    if key is None:
        raise rules.key_not_found(field)
    return key


def _owner(caller: Caller, user: str) -> str:
    owner = user or caller.user
    if not owner:
        raise InvalidArgument("user is required: the caller is no user", field="user")
    return owner


async def _calling_key(session: Session, caller: Caller) -> Key | None:
    return await key_rows.find_key(session, caller.key_id) if caller.key_id else None


def _key(text: KeyText, wanted: NewKey, user: str, now_ms: int) -> Key:
    if wanted.expires_ms and wanted.expires_ms <= now_ms:
        raise InvalidArgument("expires must be in the future", field="expires")
    return Key(
        key_id=text.key_id,
        name=wanted.name,
        prefix=text.prefix,
        sha256=text.sha256,
        user=user,
        role=wanted.role,
        models=wanted.models,
        created_ms=now_ms,
        expires_ms=wanted.expires_ms,
    )
