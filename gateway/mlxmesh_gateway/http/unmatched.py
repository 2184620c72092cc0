"""Answers requests that no route of an edge takes, in its shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from mlxmesh_gateway.http.exchange import send_json

_NO_SUCH_PATH = "there is no such path here; GET /openapi.json lists every path"
_TWICE = "this path has {0} twice: the client's base URL must end without {0}"
_BASE = (
    "the APIs of OpenAI and Anthropic are below /v1, as in /v1/chat/completions; GET /openapi.json"
    " lists every path"
)

Body = Callable[[str, str], object]
"""The JSON of an error, from its message and code."""


def unmatched(prefix: str, routes: Sequence[Route], body: Body) -> Route:
    """A route for everything below a prefix that none of the others takes; it must be the last."""
    return Route(f"{prefix}/{{path:path}}", _Unmatched(prefix, routes, body))


async def outside_edges(_request: Request, error: Exception) -> Response:
    """Answers what no route at all takes, such as a client whose base URL lacks /v1."""
    assert isinstance(error, HTTPException)
    verbs = (error.headers or {}).get("allow")
    reason = f"this path takes only {verbs}" if verbs else "there is no such path here"
    told = {
        "message": f"{reason}; {_BASE}",
        "type": "invalid_request_error",
        "param": None,
        "code": "method_not_allowed" if verbs else "path_not_found",
    }
    # JSON in OpenAI's shape: its clients hide any other text.
    return JSONResponse({"error": told}, error.status_code, error.headers)


class _Unmatched:
    """An ASGI application."""

    def __init__(self, prefix: str, routes: Sequence[Route], body: Body) -> None:
        self._twice = prefix * 2 + "/"
        self._prefix = prefix
        self._routes = routes
        self._body = body

    async def __call__(self, scope: Mapping[str, Any], _receive: Any, send: Any) -> None:
        verbs = sorted(self._verbs(scope))
        if verbs:
            message = f"this path takes only {', '.join(verbs)}"
            headers = [("allow", ", ".join(verbs))]
            await send_json(send, 405, self._body(message, "method_not_allowed"), headers)
        else:
            twice = scope["path"].startswith(self._twice)
            message = _TWICE.format(self._prefix) if twice else _NO_SUCH_PATH
            await send_json(send, 404, self._body(message, "path_not_found"))

    def _verbs(self, scope: Mapping[str, Any]) -> set[str]:
        matching = (one for one in self._routes if one.matches(dict(scope))[0] is Match.PARTIAL)
        return {verb for route in matching for verb in route.methods or ()}
