"""Answers requests that no route of an edge takes, in its shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.routing import Match, Route

from mlxmesh_gateway.http.exchange import send_json

Body = Callable[[str, str], object]
"""The JSON of an error, from its message and code."""


def unmatched(prefix: str, routes: Sequence[Route], body: Body) -> Route:
    """A route for everything below a prefix that none of the others takes; it must be the last."""
    return Route(f"{prefix}/{{path:path}}", _Unmatched(routes, body))


class _Unmatched:
    """An ASGI application."""

    def __init__(self, routes: Sequence[Route], body: Body) -> None:
        self._routes = routes
        self._body = body

    async def __call__(self, scope: Mapping[str, Any], _receive: Any, send: Any) -> None:
        verbs = sorted(self._verbs(scope))
        if verbs:
            message = f"this path takes only {', '.join(verbs)}"
            headers = [("allow", ", ".join(verbs))]
            await send_json(send, 405, self._body(message, "method_not_allowed"), headers)
        else:
            message = "there is no such path here"
            await send_json(send, 404, self._body(message, "path_not_found"))

    def _verbs(self, scope: Mapping[str, Any]) -> set[str]:
        matching = (one for one in self._routes if one.matches(dict(scope))[0] is Match.PARTIAL)
        return {verb for route in matching for verb in route.methods or ()}
