"""Protects the port from web pages: which Host and Origin headers are answered.

A page may have its own name resolve to a loopback address (DNS rebinding) and then ask this port as
if it were its own server; but its request still names the page's host. A page may also send simple
requests to any address; they name the page as their origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse

from mlxmesh_gateway.http.hosts import AnsweredHosts

_OTHER_HOST = (
    "this port does not answer requests for that host name, since any web page could make them:"
    " name it in the setting http_hosts of the gateway, or ask for the address\n"
)
_OTHER_ORIGIN = (
    "this port does not answer requests of web pages of other origins: name the page's origin in"
    " the setting cors_origins of the gateway\n"
)
OPEN_PATHS = frozenset({"/health", "/healthz"})
"""Paths that tell nothing, and are answered in any case."""


class BrowserGuard:
    """An ASGI middleware that refuses the requests of unknown web pages."""

    def __init__(
        self, app: Any, *, hosts: AnsweredHosts | None = None, origins: Iterable[str] = ()
    ) -> None:
        """hosts: None answers every host. origins: of pages that may make requests; * for all."""
        self._app = app
        self._hosts = hosts
        self._origins = frozenset(origins)

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        refusal = None
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            refusal = self._refusal(scope)
        app: Any = self._app if refusal is None else refusal
        await app(scope, receive, send)

    def _refusal(self, scope: Mapping[str, Any]) -> PlainTextResponse | None:
        host = _header(scope, b"host")
        if self._hosts is not None and host is not None and not self._hosts.answers(host):
            return PlainTextResponse(_OTHER_HOST, status_code=421)
        origin = _header(scope, b"origin")
        if origin is None or self._allows(origin) or _is_own(origin, host):
            return None
        return PlainTextResponse(_OTHER_ORIGIN, status_code=403)

    def _allows(self, origin: str) -> bool:
        return "*" in self._origins or origin in self._origins


def _is_own(origin: str, host: str | None) -> bool:
    """Whether the page came from this port itself."""
    return host is not None and urlsplit(origin).netloc.lower() == host.lower()


def _header(scope: Mapping[str, Any], name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1").strip()
    return None
