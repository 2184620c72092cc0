"""The routes of all HTTP edges."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from mlxmesh_gateway.anthropic.routes import anthropic_routes
from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.kserve.routes import kserve_routes
from mlxmesh_gateway.openai.routes import openai_routes
from mlxmesh_gateway.openai.unmatched import unmatched


def edge_routes(parts: EdgeParts) -> list[BaseRoute]:
    """Every route; of two with the same path, the first that matches is taken."""
    v1: list[Route] = [*anthropic_routes(parts), *openai_routes(parts)]
    return [*v1, unmatched(v1), *kserve_routes(parts)]
