"""Converts embeddings and rankings between OpenAI's, Jina's and Cohere's JSON and the contract."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Sequence
from typing import cast

from mlxmesh.generation.v1 import embedding_pb2 as pb
from mlxmesh_gateway.openai.convert import service_tier_of
from mlxmesh_gateway.openai.embedding_schema import EmbeddingRequest, RerankRequest

PURPOSES = {
    None: pb.EMBED_PURPOSE_UNSPECIFIED,
    "query": pb.EMBED_PURPOSE_QUERY,
    "document": pb.EMBED_PURPOSE_DOCUMENT,
}
"""By their names in requests."""


def embed_request(request: EmbeddingRequest) -> pb.EmbedRequest:
    return pb.EmbedRequest(
        model=request.model,
        inputs=_inputs(request.input),
        dimensions=request.dimensions,
        purpose=PURPOSES[request.purpose],
        truncate=bool(request.truncate),
        normalize=request.normalize,
        service_tier=service_tier_of(request.service_tier),
    )


def rerank_request(request: RerankRequest) -> pb.RerankRequest:
    return pb.RerankRequest(
        model=request.model,
        query=request.query,
        documents=request.documents,
        top_n=request.top_n,
        instruction=request.instruction or "",
        truncate=bool(request.truncate),
        service_tier=service_tier_of(request.service_tier),
    )


def embeddings_body(request: EmbeddingRequest, response: pb.EmbedResponse) -> bytes:
    """The body of a response, vector by vector: json.dumps would stop all streams meanwhile."""
    encoded = request.encoding_format == "base64"
    data = ",".join(
        f'{{"object":"embedding","index":{number},"embedding":{_vector(each.values, encoded)}}}'
        for number, each in enumerate(response.embeddings)
    )
    usage = {"prompt_tokens": response.prompt_tokens, "total_tokens": response.prompt_tokens}
    model = json.dumps(request.model, ensure_ascii=False)
    body = f'{{"object":"list","data":[{data}],"model":{model},"usage":{json.dumps(usage)}}}'
    return body.encode()


def base64_of(values: Sequence[float]) -> str:
    """A vector as little-endian floats of 32 bits, in base64."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _vector(values: Sequence[float], encoded: bool) -> str:
    """A vector as JSON."""
    return f'"{base64_of(values)}"' if encoded else f"[{','.join(map(repr, values))}]"


def rerank_body(request: RerankRequest, response: pb.RerankResponse) -> dict[str, object]:
    """The body of a response."""
    usage = {"prompt_tokens": response.prompt_tokens, "total_tokens": response.prompt_tokens}
    return {
        "object": "list",
        "model": request.model,
        "results": list(_results(request, response)),
        "usage": usage,
    }


def _results(request: RerankRequest, response: pb.RerankResponse) -> Iterable[dict[str, object]]:
    for each in response.results:
        result: dict[str, object] = {
            "index": each.index,
            "relevance_score": each.relevance_score,
        }
        if request.return_documents is not False:
            result["document"] = {"text": request.documents[each.index]}
        yield result


def _inputs(
    asked: str | Sequence[str] | Sequence[int] | Sequence[list[int]],
) -> list[pb.EmbedInput]:
    """One for each text, and one for token ids that stand alone."""
    if isinstance(asked, str):
        return [pb.EmbedInput(text=asked)]
    if asked and isinstance(asked[0], int):
        return [_input(cast("Sequence[int]", asked))]
    return [_input(each) for each in cast("Sequence[str | list[int]]", asked)]


def _input(one: str | Sequence[int]) -> pb.EmbedInput:
    if isinstance(one, str):
        return pb.EmbedInput(text=one)
    return pb.EmbedInput(tokens=pb.EmbedTokens(token_ids=one))
