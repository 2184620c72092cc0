"""The client's methods for vectors of texts and the relevance of documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mlxmesh.generation.v1 import embedding_pb2 as pb
from mlxmesh.generation.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mlxmesh.generation.v1.generation_pb2 import SERVICE_TIER_FLEX, SERVICE_TIER_UNSPECIFIED
from mlxmesh_client.calls import Calls

Purpose = Literal["", "query", "document"]
_PURPOSES: dict[Purpose, pb.EmbedPurpose.ValueType] = {
    "": pb.EMBED_PURPOSE_UNSPECIFIED,
    "query": pb.EMBED_PURPOSE_QUERY,
    "document": pb.EMBED_PURPOSE_DOCUMENT,
}


class EmbeddingMethods:
    """One method per RPC of EmbeddingService."""

    _calls: Calls
    _embeddings: EmbeddingServiceStub

    async def embed(
        self,
        model: str,
        inputs: str | Sequence[str | Sequence[int]],
        *,
        dimensions: int | None = None,
        purpose: Purpose = "",
        truncate: bool = False,
        normalize: bool | None = None,
        flex: bool = False,
        timeout_s: float | None = None,
    ) -> pb.EmbedResponse:
        """Returns a vector for each text, or for each list of token ids."""
        texts = [inputs] if isinstance(inputs, str) else inputs
        request = pb.EmbedRequest(
            model=model,
            inputs=map(_input, texts),
            dimensions=dimensions,
            purpose=_PURPOSES[purpose],
            truncate=truncate,
            normalize=normalize,
            service_tier=SERVICE_TIER_FLEX if flex else SERVICE_TIER_UNSPECIFIED,
        )
        return await self._calls.unary(self._embeddings.Embed, request, timeout_s, safe=True)

    async def rerank(
        self,
        model: str,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        instruction: str = "",
        truncate: bool = False,
        flex: bool = False,
        timeout_s: float | None = None,
    ) -> pb.RerankResponse:
        """Returns the documents' indices and scores, the most relevant first."""
        request = pb.RerankRequest(
            model=model,
            query=query,
            documents=documents,
            top_n=top_n,
            instruction=instruction,
            truncate=truncate,
            service_tier=SERVICE_TIER_FLEX if flex else SERVICE_TIER_UNSPECIFIED,
        )
        return await self._calls.unary(self._embeddings.Rerank, request, timeout_s, safe=True)


def _input(given: str | Sequence[int]) -> pb.EmbedInput:
    if isinstance(given, str):
        return pb.EmbedInput(text=given)
    return pb.EmbedInput(tokens=pb.EmbedTokens(token_ids=given))
