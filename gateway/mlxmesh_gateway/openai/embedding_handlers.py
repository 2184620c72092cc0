"""POST /v1/embeddings and POST /v1/rerank: read, and answered that engines have neither yet."""

from __future__ import annotations

from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.schema import Schema
from mlxmesh_gateway.openai.embedding_schema import EmbeddingRequest, RerankRequest
from mlxmesh_gateway.openai.errors import error_body
from mlxmesh_shared.errors import NotImplementedYet

_NO_RETRY = ("x-should-retry", "false")
"""OpenAI's clients repeat a request after any other 5xx."""


async def embeddings(exchange: Exchange) -> None:
    """Embeds texts."""
    await _refuse(exchange, EmbeddingRequest, "embeddings")


async def rerank(exchange: Exchange) -> None:
    """Orders documents."""
    await _refuse(exchange, RerankRequest, "reranking")


async def _refuse(exchange: Exchange, schema: type[Schema], feature: str) -> None:
    exchange.read(schema)
    error = NotImplementedYet(f"engines have no {feature} yet")
    await exchange.respond(501, error_body(error, 501), [_NO_RETRY])
