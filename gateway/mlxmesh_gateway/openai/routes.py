"""The routes of OpenAI's HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.routing import Route

from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.openai.errors import error_body
from mlxmesh_gateway.openai.model_handlers import GET_MODEL, LIST_MODELS, get_model, list_models


def openai_routes(parts: EdgeParts) -> Sequence[Route]:
    """All routes below /v1."""
    route = partial(parts.route, error_body=error_body)
    return [
        route("GET", "/v1/models", method=LIST_MODELS, handle=list_models),
        route("GET", "/v1/models/{model}", method=GET_MODEL, handle=get_model),
    ]
