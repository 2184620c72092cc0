"""All ways to sign in, and how they are built from the settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from mlxmesh_access.accounts import user_rows
from mlxmesh_access.accounts.models import User
from mlxmesh_access.accounts.users import Users
from mlxmesh_access.database import AccessDatabase
from mlxmesh_access.sign_in.oidc.identities import Identities
from mlxmesh_access.sign_in.oidc.issuer import Issuer
from mlxmesh_access.sign_in.oidc.oidc_sign_in import OidcClient, OidcSignIn
from mlxmesh_access.sign_in.oidc.redirects import is_legal
from mlxmesh_access.sign_in.password_sign_in import PasswordSignIn
from mlxmesh_access.sign_in.passwords import Passwords
from mlxmesh_access.sign_in.refresh_tokens import SessionLimits
from mlxmesh_access.sign_in.sessions import Sessions
from mlxmesh_access.sign_in.throttle import SIGN_UPS_BY_HOST, SignInThrottle, Throttle, network_of
from mlxmesh_access.sign_in.token_signing import TokenSigning, published_keys
from mlxmesh_shared.encryption import load_or_create_secret
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.settings import AccessSettings
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

SECRET_FILE = "access.secret"  # noqa: S105 - its name


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInOptions:
    """How one may sign in."""

    sign_up: bool
    oidc_issuer: str
    jwks_json: str
    has_users: bool


class SignIn:
    """Sign-up, sign-in with a password or at an issuer, and the sessions that begin there."""

    def __init__(
        self,
        *,
        database: AccessDatabase,
        settings: AccessSettings,
        users: Users,
        passwords: PasswordSignIn,
        sessions: Sessions,
        oidc: OidcSignIn | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Uses the database, which its caller closes."""
        self.passwords = passwords
        self.sessions = sessions
        self._database = database
        self._settings = settings
        self._users = users
        self._oidc = oidc
        self._monotonic = monotonic
        self._sign_ups = Throttle(SIGN_UPS_BY_HOST)

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    def oidc(self) -> OidcSignIn:
        """Sign-in at the issuer. Raises: IllegalState without one."""
        if self._oidc is None:
            raise IllegalState("no OpenID Connect issuer is set; set [access] oidc_issuer")
        return self._oidc

    async def sign_up(self, name: str, password: str, host: str) -> User:
        """Creates a user who waits for approval. Raises: as Users.sign_up; TooManyRequests."""
        if self._settings.sign_up:
            self._sign_ups.begin(network_of(host), self._monotonic())
        return await self._users.sign_up(name, password)

    @uncancellable
    async def options(self) -> SignInOptions:
        """How one may sign in, and the public keys of access tokens."""
        jwks_json, has_users = await self.transactions.read(self._read)
        return SignInOptions(
            sign_up=self._settings.sign_up,
            oidc_issuer=self._settings.oidc_issuer,
            jwks_json=jwks_json,
            has_users=has_users,
        )

    async def _read(self, session: Session) -> tuple[str, bool]:
        jwks_json = await published_keys(session, self._database.clock())
        return jwks_json, await user_rows.has_users(session)


def open_sign_in(
    stack: AsyncExitStack,
    settings: AccessSettings,
    database: AccessDatabase,
    passwords: Passwords,
    users: Users,
) -> SignIn:
    """Builds all of it; the stack closes what it opens. Raises: IllegalState."""
    signing = TokenSigning(
        database,
        partial(load_or_create_secret, settings.data_dir / SECRET_FILE),
        lifetime_s=settings.access_token_s,
        rotation_s=settings.signing_key_s,
    )
    limits = SessionLimits(lifetime_s=settings.session_lifetime_s, idle_s=settings.session_idle_s)
    sessions = Sessions(database, signing, limits)
    return SignIn(
        database=database,
        settings=settings,
        users=users,
        passwords=PasswordSignIn(database, passwords, sessions, SignInThrottle()),
        sessions=sessions,
        oidc=_oidc(stack, settings, database, sessions) if settings.oidc_issuer else None,
    )


def _oidc(
    stack: AsyncExitStack, settings: AccessSettings, database: AccessDatabase, sessions: Sessions
) -> OidcSignIn:
    _check_oidc(settings)
    client = OidcClient(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        redirect_uris=settings.oidc_redirect_uris,
    )
    identities = Identities(
        database, name_claim=settings.oidc_name_claim, approve=settings.oidc_approve
    )
    issuer = _open_issuer(settings)
    stack.push_async_callback(issuer.close)
    return OidcSignIn(database, sessions, identities, issuer, client)


def _open_issuer(settings: AccessSettings) -> Issuer:
    # Not at the top: an HTTP client is slow to import, and few have an issuer.
    from mlxmesh_access.sign_in.oidc.http_issuer import HttpIssuer

    return HttpIssuer(
        settings.oidc_issuer,
        settings.oidc_client_id,
        settings.oidc_client_secret_file,
        timeout_s=settings.oidc_timeout_s,
    )


def _check_oidc(settings: AccessSettings) -> None:
    if not is_legal(settings.oidc_issuer):
        raise IllegalState("oidc_issuer must be an https URL, or http on a loopback host")
    if not settings.oidc_client_id:
        raise IllegalState("oidc_issuer needs oidc_client_id")
    if not settings.oidc_redirect_uris:
        raise IllegalState("oidc_issuer needs oidc_redirect_uris")
    for uri in settings.oidc_redirect_uris:
        if not is_legal(uri):
            raise IllegalState(
                f"{uri} among oidc_redirect_uris must be https, or http on a loopback host"
            )
