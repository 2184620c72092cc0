"""The routes of sessions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from starlette.routing import Route

from mlxmesh_gateway.connect.errors import UNARY_ERRORS
from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.sessions import handlers as h
from mlxmesh_gateway.sessions.cookies import SESSION_PATH
from mlxmesh_gateway.sessions.schema import SignInBody


def session_routes(parts: EdgeParts) -> Iterator[Route]:
    """All routes of `/session`; errors have the shape of the Connect protocol."""
    handlers = h.SessionHandlers(parts.door)
    route = partial(parts.route, error_body=UNARY_ERRORS)
    yield route(
        "GET",
        SESSION_PATH,
        method=h.OPTIONS,
        handle=handlers.show,
        summary="Who is signed in, and how one may sign in.",
    )
    yield route(
        "POST",
        SESSION_PATH,
        method=h.SIGN_IN,
        handle=handlers.sign_in,
        summary="Begins a session, whose tokens are in cookies.",
        request=SignInBody,
    )
    yield route(
        "DELETE",
        SESSION_PATH,
        method=h.SIGN_OUT,
        handle=handlers.sign_out,
        summary="Ends the session.",
    )
    yield route(
        "POST",
        f"{SESSION_PATH}/oidc",
        method=h.BEGIN_OIDC,
        handle=handlers.begin_oidc,
        summary="Begins a sign-in at the OpenID Connect issuer.",
    )
