"""The routes of all HTTP edges."""

from __future__ import annotations

from starlette.routing import BaseRoute

from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.openai.routes import openai_routes
from mlxmesh_gateway.openai.unmatched import unmatched


def edge_routes(parts: EdgeParts) -> list[BaseRoute]:
    """Every route; of two with the same path, the first that matches is taken."""
    routes = [*openai_routes(parts)]
    return [*routes, unmatched(routes)]
