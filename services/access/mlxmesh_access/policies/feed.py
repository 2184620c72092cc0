"""Follows the policies: all of them, then each change."""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial

from mlxmesh_access.accounts import key_rows, user_rows
from mlxmesh_access.database import AccessDatabase, read_revision
from mlxmesh_access.policies.models import (
    Policies,
    PolicyChange,
    difference,
    key_policy,
    user_policy,
    whole,
)
from mlxmesh_access.quotas import quota_rows
from mlxmesh_access.sign_in.token_signing import published_keys
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

_ALL = 2**31


class PolicyFeed:
    """The policies as they change. All watchers share what was read for one revision."""

    def __init__(self, database: AccessDatabase) -> None:
        """Uses the database, which its caller closes."""
        self._database = database
        self._reading = asyncio.Lock()
        self._newest: Policies | None = None

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    async def revision(self) -> int:
        """The newest revision."""
        return await self._database.revision()

    async def watch(self) -> AsyncGenerator[PolicyChange]:
        """All policies, then each change; does not end. Raises: MeshError."""
        with self._database.subscribe() as changed:
            known = await self._read()
            yield whole(known)
            while True:
                await changed.wait()
                changed.clear()
                now = await self._read()
                if now.revision != known.revision:
                    yield difference(known, now)
                    known = now

    @uncancellable
    async def _read(self) -> Policies:
        async with self._reading:
            revision = await self._database.revision()
            if self._newest is None or self._newest.revision != revision:
                # Read together with their revision, which may be a newer one by now.
                read = partial(read_policies, now_ms=self._database.clock())
                self._newest = await self.transactions.read(read)
            return self._newest


async def read_policies(session: Session, *, now_ms: int) -> Policies:
    """All policies, in one transaction."""
    revision = await read_revision(session)
    users = {user.name: user for user in await user_rows.active_users(session)}
    keys = await key_rows.working_keys(session, now_ms)
    return Policies(
        revision=revision,
        keys={key.key_id: key_policy(key, users[key.user]) for key in keys},
        users={name: user_policy(user) for name, user in users.items()},
        quotas=dict(await quota_rows.list_limits(session, limit=_ALL)),
        jwks_json=await published_keys(session, now_ms),
        authentication_required=await user_rows.has_users(session),
    )
