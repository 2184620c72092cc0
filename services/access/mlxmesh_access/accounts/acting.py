"""Changes on behalf of a caller, whose credentials must still work."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mlxmesh_access.accounts import key_rows, rules, user_rows
from mlxmesh_access.database import AccessDatabase, Change
from mlxmesh_shared.rpc.caller import ForwardedCaller as Caller


@asynccontextmanager
async def changing(database: AccessDatabase, caller: Caller) -> AsyncGenerator[Change]:
    """A transaction as of AccessDatabase.changing.

    A gateway may not know yet that a key was revoked, or that a user was disabled. Such a caller
    must not be able to create keys that outlive its own. Nor may a gateway know of the first user
    yet, before whom everybody is an admin.
    Raises: Unauthenticated.
    """
    async with database.changing(caller.principal) as change:
        session = change.session
        user = await user_rows.find_user(session, caller.user) if caller.user else None
        key = await key_rows.find_key(session, caller.key_id) if caller.key_id else None
        rules.check_credentials(caller, user, key, change.now_ms)
        if caller.is_anonymous:
            rules.check_anonymous(caller, has_users=await user_rows.has_users(session))
        yield change
