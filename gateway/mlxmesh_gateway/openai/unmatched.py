"""Answers requests below /v1 that no route takes, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.routing import Match, Route

from mlxmesh_gateway.http.exchange import send_json


def unmatched(routes: Sequence[Route]) -> Route:
    """A route for everything below /v1 that none of the others takes; it must be the last one."""
    return Route("/v1/{path:path}", _Unmatched(routes))


class _Unmatched:
    """An ASGI application."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    async def __call__(self, scope: Mapping[str, Any], _receive: Any, send: Any) -> None:
        verbs = sorted(self._verbs(scope))
        if verbs:
            message = f"this path takes only {', '.join(verbs)}"
            headers = [("allow", ", ".join(verbs))]
            await send_json(send, 405, _body(message, "method_not_allowed"), headers)
        else:
            await send_json(send, 404, _body("there is no such path here", "path_not_found"))

    def _verbs(self, scope: Mapping[str, Any]) -> set[str]:
        matching = (one for one in self._routes if one.matches(dict(scope))[0] is Match.PARTIAL)
        return {verb for route in matching for verb in route.methods or ()}


def _body(message: str, code: str) -> dict[str, object]:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return {"error": error}
