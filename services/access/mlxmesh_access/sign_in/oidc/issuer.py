"""The port of an OpenID Connect issuer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mlxmesh_access.sign_in.oidc.id_tokens import Jwk
from mlxmesh_access.sign_in.oidc.requests import Exchange


class Issuer(Protocol):
    """What sign-in needs of an issuer. Every method may raise IssuerUnavailable."""

    async def authorization_endpoint(self) -> str:
        """Where the browser signs in."""
        ...

    async def id_token(self, exchange: Exchange) -> str:
        """The ID token for an authorization code.

        Raises: Unauthenticated for a code that the issuer refuses; IllegalState where it refuses
        this client.
        """
        ...

    async def keys(self, *, newer: bool = False) -> Sequence[Jwk]:
        """The public keys of ID tokens.

        newer: asks the issuer again, unless that was done a moment ago.
        """
        ...

    async def close(self) -> None:
        """Closes its connections."""
        ...
