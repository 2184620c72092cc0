"""The routes of OpenAI's HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.routing import Route

from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.http.model_handlers import GET_MODEL, LIST_MODELS
from mlxmesh_gateway.openai.batches.routes import batch_routes, file_routes
from mlxmesh_gateway.openai.chat_handlers import chat_completions
from mlxmesh_gateway.openai.chat_schema import ChatRequest
from mlxmesh_gateway.openai.completion_handlers import completions
from mlxmesh_gateway.openai.completion_schema import CompletionRequest
from mlxmesh_gateway.openai.embedding_handlers import EMBED, RERANK, embeddings, rerank
from mlxmesh_gateway.openai.embedding_schema import EmbeddingRequest, RerankRequest
from mlxmesh_gateway.openai.errors import (
    chat_error_body,
    completion_error_body,
    embedding_error_body,
    error_body,
)
from mlxmesh_gateway.openai.generation_handlers import GENERATE
from mlxmesh_gateway.openai.model_handlers import get_model, list_models
from mlxmesh_gateway.openai.responses.routes import response_routes


def openai_routes(parts: EdgeParts) -> Sequence[Route]:
    """All routes below /v1."""
    route = partial(parts.route, error_body=error_body)
    generate = partial(parts.route, "POST", method=GENERATE)
    return [
        route(
            "GET",
            "/v1/models",
            method=LIST_MODELS,
            handle=list_models,
            summary="List the models and their aliases.",
        ),
        route(
            "GET",
            "/v1/models/{model}",
            method=GET_MODEL,
            handle=get_model,
            summary="Show a model by its name, or by the reference of a version or an alias.",
        ),
        generate(
            "/v1/chat/completions",
            handle=chat_completions,
            summary="Continue a conversation.",
            request=ChatRequest,
            error_body=chat_error_body,
        ),
        generate(
            "/v1/completions",
            handle=completions,
            summary="Continue texts.",
            request=CompletionRequest,
            error_body=completion_error_body,
        ),
        route(
            "POST",
            "/v1/embeddings",
            method=EMBED,
            handle=embeddings,
            summary="Embed texts.",
            request=EmbeddingRequest,
            error_body=embedding_error_body,
        ),
        route(
            "POST",
            "/v1/rerank",
            method=RERANK,
            handle=rerank,
            summary="Order documents by their relevance to a query.",
            request=RerankRequest,
            error_body=embedding_error_body,
        ),
        *response_routes(parts),
        *file_routes(parts),
        *batch_routes(parts),
    ]
