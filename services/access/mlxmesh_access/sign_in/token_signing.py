"""Signs access tokens, with keys that it makes when they are needed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from mlxmesh_access.accounts.models import User
from mlxmesh_access.database import AccessDatabase
from mlxmesh_access.sign_in import rows
from mlxmesh_access.sign_in.ed25519 import KeyRing
from mlxmesh_access.sign_in.signing_keys import (
    SigningKey,
    key_set,
    signing_key,
    successor_is_due,
)
from mlxmesh_shared.access_tokens import AccessClaims
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

_ACTOR = "service:access"


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A signed token."""

    text: str = field(repr=False)
    """A secret."""
    expires_ms: int


class TokenSigning:
    """Signs access tokens; a gateway verifies them with the published keys."""

    def __init__(
        self,
        database: AccessDatabase,
        load_secret: Callable[[], bytes],
        *,
        lifetime_s: float,
        rotation_s: float,
    ) -> None:
        """load_secret: the secret that encrypts private keys; called in a thread when needed."""
        self._database = database
        self._load_secret = load_secret
        self._lifetime_ms = round(lifetime_s * 1000)
        self._rotation_s = rotation_s
        self._ring: KeyRing | None = None

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    @uncancellable
    async def prepare(self) -> None:
        """Makes a key if one is due, so that `sign` has one. Raises: MeshError."""
        ring = await self._opened_ring()
        if not self._is_due(ring, await self.transactions.read(rows.signing_keys)):
            return
        async with self._database.changing(_ACTOR) as change:
            # Another process may have made one meanwhile.
            if self._is_due(ring, await rows.signing_keys(change.session)):
                key = ring.new_key(change.now_ms, self._rotation_s)
                await rows.add_signing_key(change.session, key)
                await change.audit("signing_key.created", f"signing_key:{key.key_id}")

    async def sign(self, session: Session, user: User, session_id: str, now_ms: int) -> AccessToken:
        """A token for a session of a user. `prepare` must have run shortly before."""
        ring = await self._opened_ring()
        key = signing_key(ring.usable(await rows.signing_keys(session)), now_ms)
        if key is None:
            raise RuntimeError("prepare() makes the signing key")
        expires_ms = now_ms + self._lifetime_ms
        claims = AccessClaims(
            user=user.name,
            session_id=session_id,
            token_id=secrets.token_hex(12),
            issued_s=now_ms / 1000,
            valid_from_s=now_ms / 1000,
            expires_s=expires_ms / 1000,
            role=user.role.value,
            team=user.team,
        )
        return AccessToken(ring.sign(key, claims), expires_ms)

    async def _opened_ring(self) -> KeyRing:
        if self._ring is None:
            self._ring = KeyRing(await asyncio.to_thread(self._load_secret))
        return self._ring

    def _is_due(self, ring: KeyRing, keys: list[SigningKey]) -> bool:
        return successor_is_due(ring.usable(keys), self._database.clock())


async def published_keys(session: Session, now_ms: int) -> str:
    """The public keys of access tokens as a JSON Web Key Set, for gateways and other verifiers."""
    return key_set(await rows.signing_keys(session), now_ms)
