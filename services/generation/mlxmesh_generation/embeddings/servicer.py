"""EmbeddingService: convert, call, convert back."""

from typing import Any

from mlxmesh.generation.v1.embedding_pb2 import (
    EmbedRequest,
    EmbedResponse,
    RerankRequest,
    RerankResponse,
)
from mlxmesh.generation.v1.embedding_pb2_grpc import EmbeddingServiceServicer
from mlxmesh_generation.embeddings import convert
from mlxmesh_generation.embeddings.embeddings import Embeddings
from mlxmesh_shared.rpc.caller import claimed_caller, forwarded_owner
from mlxmesh_shared.rpc.server import remaining_s


class EmbeddingServicer(EmbeddingServiceServicer):
    """The server has checked the legal ranges before it calls a handler."""

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings

    async def Embed(self, request: EmbedRequest, context: Any) -> EmbedResponse:
        caller, owner = claimed_caller(context), forwarded_owner(context)
        asked = convert.embed_request(request, caller=caller, owner=owner)
        return convert.embed_response(await self._embeddings.embed(asked, remaining_s(context)))

    async def Rerank(self, request: RerankRequest, context: Any) -> RerankResponse:
        caller, owner = claimed_caller(context), forwarded_owner(context)
        asked = convert.rerank_request(request, caller=caller, owner=owner)
        return convert.rerank_response(await self._embeddings.rerank(asked, remaining_s(context)))
