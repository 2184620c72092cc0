"""An OpenID Connect issuer over HTTP.

Source: OpenID Connect Discovery 1.0; RFC 6749 sections 2.3.1, 4.1.3 and 5.2.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote_plus

from mlxmesh_access.sign_in.oidc.cached import Cached
from mlxmesh_access.sign_in.oidc.http_json import HttpJson
from mlxmesh_access.sign_in.oidc.id_tokens import Jwk
from mlxmesh_access.sign_in.oidc.redirects import is_legal
from mlxmesh_access.sign_in.oidc.requests import Exchange
from mlxmesh_shared.errors import IllegalState, IssuerUnavailable, Unauthenticated

_FRESH_S = 3600
_MIN_INTERVAL_S = 10
"""The shortest time between two requests for newer keys: anybody can make up tokens."""
_MAX_SECRET_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Endpoints:
    """What an issuer publishes of itself."""

    authorization: str
    token: str
    keys: str
    secret_in_body: bool
    """Whether the client's secret is sent in the body, because the issuer reads no header."""


class HttpIssuer:
    """Satisfies `Issuer`; what it publishes is fetched when it is first needed."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        client_secret_file: Path | None,
        *,
        timeout_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """client_secret_file: read for each exchange, so it may be renewed; None without one."""
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret_file = client_secret_file
        self._http = HttpJson(timeout_s)
        self._endpoints = Cached(self._fetch_endpoints, monotonic)
        self._keys = Cached(self._fetch_keys, monotonic)

    async def close(self) -> None:
        """Ends its requests and closes its connections."""
        await self._keys.close()
        await self._endpoints.close()
        await self._http.close()

    async def authorization_endpoint(self) -> str:
        """Where the browser signs in. Raises: IssuerUnavailable."""
        return (await self._endpoints.get(_FRESH_S)).authorization

    async def keys(self, *, newer: bool = False) -> Sequence[Jwk]:
        """The public keys of ID tokens. Raises: IssuerUnavailable."""
        return await self._keys.get(_MIN_INTERVAL_S if newer else _FRESH_S)

    async def id_token(self, exchange: Exchange) -> str:
        """The ID token for a code. Raises: IssuerUnavailable, Unauthenticated, IllegalState."""
        endpoints = await self._endpoints.get(_FRESH_S)
        form = {
            "grant_type": "authorization_code",
            "code": exchange.code,
            "code_verifier": exchange.code_verifier,
            "redirect_uri": exchange.redirect_uri,
            "client_id": self._client_id,
        }
        secret = await asyncio.to_thread(self._client_secret)
        credentials: tuple[str, str] | None = None
        if secret and endpoints.secret_in_body:
            form["client_secret"] = secret
        elif secret:
            credentials = (quote_plus(self._client_id), quote_plus(secret))
        status, content = await self._http.post(endpoints.token, form, credentials)
        if status != 200:
            raise _refusal(content)
        token = content.get("id_token")
        if not isinstance(token, str):
            raise IssuerUnavailable("the OpenID Connect issuer sent no ID token")
        return token

    async def _fetch_endpoints(self) -> _Endpoints:
        url = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        return _checked_endpoints(await self._http.get(url), self._issuer)

    async def _fetch_keys(self) -> Sequence[Jwk]:
        endpoints = await self._endpoints.get(_FRESH_S)
        return _checked_keys(await self._http.get(endpoints.keys))

    def _client_secret(self) -> str:
        if self._client_secret_file is None:
            return ""
        try:
            with self._client_secret_file.open("rb") as file:
                secret = file.read(_MAX_SECRET_BYTES).decode("ascii").strip()
        except (OSError, ValueError) as error:
            raise IllegalState(
                f"the file of oidc_client_secret_file cannot be read ({type(error).__name__})"
            ) from None
        if not secret:
            raise IllegalState("the file of oidc_client_secret_file is empty")
        return secret


def _checked_endpoints(content: Mapping[str, Any], issuer: str) -> _Endpoints:
    """Raises: IllegalState for a document of another issuer; IssuerUnavailable if unusable."""
    if content.get("issuer") != issuer:
        raise IllegalState("the document at oidc_issuer names another issuer; compare both")
    names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    urls = [content.get(name) for name in names]
    if not all(isinstance(url, str) and is_legal(url) for url in urls):
        raise IssuerUnavailable("the OpenID Connect issuer names no usable endpoints")
    methods = content.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    authorization, token, keys = cast("list[str]", urls)
    return _Endpoints(authorization, token, keys, "client_secret_basic" not in methods)


def _checked_keys(content: Mapping[str, Any]) -> Sequence[Jwk]:
    listed = content.get("keys")
    if not isinstance(listed, list):
        raise IssuerUnavailable("the OpenID Connect issuer published no keys")
    return [cast("Jwk", key) for key in cast("list[Any]", listed) if isinstance(key, dict)]


def _refusal(content: Mapping[str, Any]) -> Exception:
    """The error for an answer of RFC 6749, section 5.2; its description is not repeated."""
    if content.get("error") == "invalid_grant":
        return Unauthenticated("the issuer refused the code; sign in again", field="code")
    return IllegalState(
        "the OpenID Connect issuer refused this client; correct oidc_client_id, "
        "oidc_client_secret_file and oidc_redirect_uris"
    )
