"""The routes of all HTTP edges."""

from __future__ import annotations

from dataclasses import replace

from starlette.routing import BaseRoute, Route

from mlxmesh_gateway.anthropic.routes import anthropic_routes
from mlxmesh_gateway.connect.routes import ConnectRoute
from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.http.unmatched import unmatched
from mlxmesh_gateway.kserve import errors as kserve_errors
from mlxmesh_gateway.kserve.routes import kserve_routes
from mlxmesh_gateway.mcp.routes import mcp_routes
from mlxmesh_gateway.openai import errors as openai_errors
from mlxmesh_gateway.openai.routes import openai_routes
from mlxmesh_gateway.sessions.browser import with_credential
from mlxmesh_gateway.sessions.routes import session_routes


def edge_routes(parts: EdgeParts) -> list[BaseRoute]:
    """Every route; of two with the same path, the first that matches is taken."""
    v1: list[Route] = [
        *anthropic_routes(replace(parts, protocol="anthropic")),
        *openai_routes(replace(parts, protocol="openai")),
    ]
    v2 = [*kserve_routes(replace(parts, protocol="kserve"))]
    return [
        ConnectRoute(replace(parts, protocol="connect"), with_credential),
        *session_routes(parts),
        *v1,
        unmatched("/v1", v1, openai_errors.unmatched_body),
        *v2,
        unmatched("/v2", v2, kserve_errors.unmatched_body),
        *mcp_routes(replace(parts, protocol="mcp")),
    ]
