"""A route for the requests that have a header: protocols may share a path."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from starlette.routing import Match, Route


class HeaderRoute(Route):
    """Matches like its base, but only requests with the header; place it before the other route."""

    def __init__(self, path: str, endpoint: Any, *, methods: Sequence[str], header: str) -> None:
        """header: in lower case."""
        super().__init__(path, endpoint, methods=methods)
        self._header = header.encode("latin-1")

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        if any(name == self._header for name, _ in scope.get("headers", ())):
            return super().matches(scope)
        return Match.NONE, {}
