"""POST /v1/embeddings and POST /v1/rerank."""

from __future__ import annotations

import asyncio

from mlxmesh.generation.v1 import embedding_pb2 as pb
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.openai.embedding_convert import (
    embed_request,
    embeddings_body,
    rerank_body,
    rerank_request,
)
from mlxmesh_gateway.openai.embedding_schema import EmbeddingRequest, RerankRequest

EMBED = "/mlxmesh.generation.v1.EmbeddingService/Embed"
RERANK = "/mlxmesh.generation.v1.EmbeddingService/Rerank"
_INLINE_COMPONENTS = 8_192
"""Writing fewer as JSON takes less time than handing them to a thread."""


async def embeddings(exchange: Exchange) -> None:
    """Embeds texts."""
    request = exchange.read(EmbeddingRequest)
    response = await exchange.calls.unary(EMBED, embed_request(request), pb.EmbedResponse)
    components = sum(len(each.values) for each in response.embeddings)
    if components <= _INLINE_COMPONENTS:
        body = embeddings_body(request, response)
    else:
        body = await asyncio.to_thread(embeddings_body, request, response)
    await exchange.respond(200, body)


async def rerank(exchange: Exchange) -> None:
    """Orders documents."""
    request = exchange.read(RerankRequest)
    response = await exchange.calls.unary(RERANK, rerank_request(request), pb.RerankResponse)
    await exchange.respond(200, rerank_body(request, response))
