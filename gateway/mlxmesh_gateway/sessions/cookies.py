"""The cookies of a session. Pure.

Over TLS their names have the prefixes that keep other hosts and plain HTTP from setting them.
Source: RFC 6265bis, sections 4.1.3 and 5.4.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mlxmesh_gateway.http.endpoint import headers_of

SESSION_PATH = "/session"
OIDC_STATE_S = 600


@dataclass(frozen=True)
class Cookie:
    """One kind of cookie."""

    name: str
    prefix: str
    """Of the name over TLS."""
    path: str

    def set(self, value: str, max_age_s: int, *, secure: bool) -> tuple[str, str]:
        """The header that sets it; one with the age 0 removes it."""
        name = f"{self.prefix}{self.name}" if secure else self.name
        ending = "; Secure" if secure else ""
        return (
            "set-cookie",
            f"{name}={value}; Path={self.path}; Max-Age={max_age_s}; HttpOnly; SameSite=Strict"
            f"{ending}",
        )

    def find(self, scope: Mapping[str, Any]) -> str:
        """Its value in a request; empty without one, and for several: one may be planted."""
        names = [f"{self.prefix}{self.name}"]
        if scope.get("scheme") != "https":
            names.append(self.name)
        for name in names:
            if values := [value for key, value in _cookies(scope) if key == name]:
                return values[0] if len(values) == 1 else ""
        return ""


ACCESS = Cookie("mlxmesh-access", "__Host-", "/")
REFRESH = Cookie("mlxmesh-refresh", "__Secure-", SESSION_PATH)
OIDC_STATE = Cookie("mlxmesh-oidc", "__Secure-", SESSION_PATH)


def is_secure(scope: Mapping[str, Any]) -> bool:
    """Whether the browser uses TLS, here or at a proxy in front of this port."""
    return scope.get("scheme") == "https" or _origin(scope).startswith("https://")


def own_origin(scope: Mapping[str, Any]) -> str:
    """The origin of the pages of this port, as the browser sees it."""
    scheme = "https" if is_secure(scope) else "http"
    return _origin(scope) or f"{scheme}://{headers_of(scope).get('host', '')}"


def is_same_origin(scope: Mapping[str, Any]) -> bool:
    """Whether a page of this port made the request, or no page did."""
    headers = headers_of(scope)
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = _origin(scope)
    return not origin or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


def without_cookies(scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The request without its cookies, which nothing behind the edge may see."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"cookie"]
    return {**scope, "headers": headers}


def _origin(scope: Mapping[str, Any]) -> str:
    return headers_of(scope).get("origin", "").strip()


def _cookies(scope: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in scope["headers"]:
        if name == b"cookie":
            for part in value.decode("latin-1").split(";"):
                key, _, content = part.partition("=")
                pairs.append((key.strip(), content.strip()))
    return pairs
