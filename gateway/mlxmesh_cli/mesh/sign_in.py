"""What a command presents to a gateway: the given key, or the stored key or session."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mlxmesh.access.v1.access_pb2 import ACCESS_ROLE_ADMIN
from mlxmesh_cli.mesh.credentials import CredentialFile, StoredKey, StoredSession
from mlxmesh_client import MeshClient, MeshError, PermissionDenied, Unauthenticated
from mlxmesh_client.credentials import check_encryption, chosen_key

if TYPE_CHECKING:
    from mlxmesh.access.v1.access_pb2 import SessionTokens
    from mlxmesh_client import ApiKey
    from mlxmesh_shared.tls import CertificateFiles

INSECURE_KEY_VARIABLE = "MLXMESH_INSECURE_KEY"
TIMEOUT_S = 30.0
# An access token that expires sooner is not sent any more.
MIN_TOKEN_LIFE_S = 30.0


def insecure_key() -> bool:
    """Whether --insecure-key allows sending keys unencrypted beyond this machine."""
    return os.environ.get(INSECURE_KEY_VARIABLE) == "1"


def anonymous_client(gateway: str, tls: CertificateFiles | None) -> MeshClient:
    """A client that presents no key, to sign in. Raises: InvalidArgument as MeshClient."""
    if tls is None and not insecure_key():
        check_encryption([gateway])
    return MeshClient(gateway, tls=tls, api_key="", timeout_s=TIMEOUT_S)


@asynccontextmanager
async def signed_in_client(
    gateway: str, tls: CertificateFiles | None, file: CredentialFile, **options: Any
) -> AsyncGenerator[MeshClient]:
    """A client that presents MLXMESH_API_KEY, or what the file holds.

    Unauthenticated errors say how to get a key.
    """
    key = chosen_key(None) or stored_key(file, gateway, tls)
    try:
        async with MeshClient(
            gateway, tls=tls, api_key=key, insecure_key=insecure_key(), **options
        ) as client:
            try:
                yield client
            except PermissionDenied as error:
                raise await with_reason(error, client) from error
    except Unauthenticated as error:
        raise with_advice(error, presented=bool(key)) from error


def with_advice(error: Unauthenticated, *, presented: bool) -> Unauthenticated:
    """The error, and what to do about it."""
    if "mlxmesh login" in error.message:
        return error
    advice = "the key was refused; use another one, or `mlxmesh login NAME`"
    if not presented:
        advice = "sign in with `mlxmesh login NAME`, or set MLXMESH_API_KEY to a key"
    return Unauthenticated(f"{error.message}; {advice}", field=error.field)


async def with_reason(error: PermissionDenied, client: MeshClient) -> PermissionDenied:
    """The error in terms of users and members, where the caller's role is the reason."""
    # A model or a field that is not allowed has nothing to do with the role.
    if type(error) is not PermissionDenied or error.field:
        return error
    try:
        user = await client.access.get_user()
    except MeshError:
        return error
    who = f"{user.name} is a member"
    if user.role == ACCESS_ROLE_ADMIN:
        who = f"this key of {user.name} has the role member"
    return PermissionDenied(f"{who}, and only admins may do this")


def stored_key(file: CredentialFile, gateway: str, tls: CertificateFiles | None) -> ApiKey:
    """What the file holds for this mesh; empty for nothing. Raises: IllegalState."""
    found = file.read()
    if isinstance(found, StoredKey):
        return found.key
    return SessionKeys(file, found, gateway, tls) if found is not None else ""


def session_of(tokens: SessionTokens) -> StoredSession:
    """The tokens as they are stored."""
    return StoredSession(
        user=tokens.user.name,
        access_token=tokens.access_token,
        access_expires_s=tokens.access_expires.ToMilliseconds() / 1000,
        refresh_token=tokens.refresh_token,
        refresh_expires_s=tokens.refresh_expires.ToMilliseconds() / 1000,
    )


class SessionKeys:
    """The access token of a stored session, renewed when it is about to expire.

    A refresh token works once, so concurrent commands refresh under the lock of the file.
    """

    def __init__(
        self,
        file: CredentialFile,
        session: StoredSession,
        gateway: str,
        tls: CertificateFiles | None,
    ) -> None:
        self._file = file
        self._session = session
        self._gateway = gateway
        self._tls = tls
        self._renewing = asyncio.Lock()

    async def __call__(self) -> str:
        """The token for the next call. Raises: MeshError, Unauthenticated at the session's end."""
        async with self._renewing:
            if not _is_usable(self._session):
                async with self._file.locked():
                    await self._renew()
        return self._session.access_token

    async def _renew(self) -> None:
        found = self._file.read()
        if not isinstance(found, StoredSession):
            raise self._ended()
        if not _is_usable(found):
            found = await self._refreshed(found)
        self._session = found

    async def _refreshed(self, session: StoredSession) -> StoredSession:
        client = anonymous_client(self._gateway, self._tls)
        async with client:
            try:
                tokens = await client.access.refresh_session(session.refresh_token)
            except Unauthenticated:
                self._file.remove()
                raise self._ended() from None
        renewed = session_of(tokens)
        self._file.write(renewed)
        return renewed

    def _ended(self) -> Unauthenticated:
        user = self._session.user
        return Unauthenticated(f"the session has ended; sign in again: `mlxmesh login {user}`")


def _is_usable(session: StoredSession) -> bool:
    return session.access_expires_s - time.time() > MIN_TOKEN_LIFE_S
