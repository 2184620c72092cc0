"""Sign-in over a real database, with a clock that tests turn and cheap hashes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlxmesh_access.accounts.models import Role, User, UserChange
from mlxmesh_access.accounts.users import Users
from mlxmesh_access.audit import audit_log
from mlxmesh_access.database import AccessDatabase
from mlxmesh_access.sign_in.password_sign_in import PasswordSignIn
from mlxmesh_access.sign_in.passwords import HashCost, Passwords
from mlxmesh_access.sign_in.refresh_tokens import SessionLimits
from mlxmesh_access.sign_in.sessions import IssuedTokens, Sessions
from mlxmesh_access.sign_in.throttle import SignInThrottle
from mlxmesh_access.sign_in.token_signing import TokenSigning, published_keys
from mlxmesh_shared.access_tokens import AccessClaims, AccessTokenVerifier
from mlxmesh_shared.encryption import load_or_create_secret
from mlxmesh_shared.rpc.caller import ForwardedCaller
from mlxmesh_shared.sql.urls import DatabaseUrl

CHEAP = HashCost(memory_kib=64, passes=1, lanes=1)
ADMIN = ForwardedCaller("spiffe://mlxmesh/admin", True, "")
PASSWORD = "correct horse battery"
LIFETIME_S = 600
ROTATION_S = 30 * 86_400
LIMITS = SessionLimits(lifetime_s=90 * 86_400, idle_s=14 * 86_400)
HOST = "10.0.0.1"


@dataclass
class TurnedClock:
    """The time of day in milliseconds, which tests turn."""

    now_ms: int = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now_ms

    def turn(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)

    @property
    def now_s(self) -> float:
        return self.now_ms / 1000


@dataclass
class SignInRig:
    """The parts of one access service that sign users in."""

    database: AccessDatabase
    clock: TurnedClock
    passwords: Passwords
    users: Users
    signing: TokenSigning
    sessions: Sessions
    throttle: SignInThrottle
    password_sign_in: PasswordSignIn

    async def add_user(self, name: str, role: Role = Role.ADMIN, password: str = PASSWORD) -> User:
        return await self.users.create(ADMIN, User(name=name, role=role), password)

    async def change_user(self, name: str, change: UserChange) -> User:
        return await self.users.update(ADMIN, name, change, "")

    async def sign_in(self, name: str = "ada", password: str = PASSWORD) -> IssuedTokens:
        return await self.password_sign_in.sign_in(name, password, HOST)

    async def key_set(self) -> str:
        find = partial(published_keys, now_ms=self.clock())
        return await self.database.transactions.read(find)

    async def verified(self, token: str) -> AccessClaims:
        """What a gateway that has the present key set and policies learns from a token."""
        users = {user.name: user for user in await self.users.list(ADMIN, after="", limit=1000)}
        verifier = AccessTokenVerifier(await self.key_set())

        def tokens_valid_from(name: str) -> float | None:
            return users[name].tokens_valid_from_ms / 1000 if name in users else None

        return verifier.verify(token, self.clock.now_s, tokens_valid_from=tokens_valid_from)

    async def audit(self) -> list[tuple[str, str, str, str]]:
        """Actor, action, target and details of all entries, the oldest first."""
        find = partial(audit_log.entries, actor="", before=2**62, limit=1000)
        entries = await self.database.transactions.read(find)
        return [(e.actor, e.action, e.target, e.details) for e in reversed(entries)]

    async def everything_stored(self) -> str:
        """The whole database as one text."""
        tables = ("users", "keys", "sessions", "signing_keys", "oidc_states", "audit_entries")
        texts: list[str] = []
        async with self.database.transactions.write() as session:
            for table in tables:
                rows = await session.fetch(f"SELECT * FROM {table}")
                texts += [str([*dict(row).values()]) for row in rows]  # pyright: ignore[reportArgumentType, reportCallIssue]
        return "\n".join(texts)


@asynccontextmanager
async def sign_in_rig(
    url: DatabaseUrl,
    data_dir: Path,
    *,
    cost: HashCost = CHEAP,
    clock: TurnedClock | None = None,
    rotation_s: float = ROTATION_S,
) -> AsyncIterator[SignInRig]:
    """Opens a rig; several with one database and data directory are one service restarted."""
    clock = clock or TurnedClock()
    database = await AccessDatabase.open(url, clock)
    passwords = Passwords(cost)
    signing = TokenSigning(
        database,
        partial(load_or_create_secret, data_dir / "access.secret"),
        lifetime_s=LIFETIME_S,
        rotation_s=rotation_s,
    )
    sessions = Sessions(database, signing, LIMITS)
    throttle = SignInThrottle()
    try:
        yield SignInRig(
            database=database,
            clock=clock,
            passwords=passwords,
            users=Users(database, passwords, sign_up=True, needs_password=False),
            signing=signing,
            sessions=sessions,
            throttle=throttle,
            password_sign_in=PasswordSignIn(
                database, passwords, sessions, throttle, monotonic=lambda: clock.now_s
            ),
        )
    finally:
        passwords.close()
        await database.close()
