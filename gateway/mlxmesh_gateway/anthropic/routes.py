"""The routes of Anthropic's HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.routing import Route

from mlxmesh_gateway.anthropic.errors import ERRORS
from mlxmesh_gateway.anthropic.headers import VERSION_HEADER
from mlxmesh_gateway.anthropic.message_handlers import (
    COUNT_TOKENS,
    GENERATE,
    count_tokens,
    create_message,
)
from mlxmesh_gateway.anthropic.model_handlers import get_model, list_models
from mlxmesh_gateway.anthropic.schema import CountRequest, MessageRequest
from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.http.model_handlers import GET_MODEL, LIST_MODELS


def anthropic_routes(parts: EdgeParts) -> Sequence[Route]:
    """All routes below /v1; OpenAI has the models' as well, so this API's need its header."""
    post = partial(parts.route, "POST", error_body=ERRORS)
    get = partial(parts.route, "GET", error_body=ERRORS, header=VERSION_HEADER)
    return [
        post(
            "/v1/messages",
            method=GENERATE,
            handle=create_message,
            summary="Create a message (Anthropic)",
            request=MessageRequest,
        ),
        post(
            "/v1/messages/count_tokens",
            method=COUNT_TOKENS,
            handle=count_tokens,
            summary="Count the tokens of a conversation (Anthropic)",
            request=CountRequest,
        ),
        get("/v1/models", method=LIST_MODELS, handle=list_models, summary="List models"),
        get("/v1/models/{model}", method=GET_MODEL, handle=get_model, summary="Get a model"),
    ]
