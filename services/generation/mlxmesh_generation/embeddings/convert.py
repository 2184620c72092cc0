"""Messages of EmbeddingService to domain objects, and back."""

import secrets
from array import array

from mlxmesh.generation.v1 import embedding_pb2 as pb
from mlxmesh.generation.v1.generation_pb2 import SERVICE_TIER_FLEX
from mlxmesh_generation.domain.encoding import (
    Embedded,
    EmbedInput,
    EmbedRequest,
    Purpose,
    Reranked,
    RerankRequest,
)
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.reference import ModelReference

MAX_CHARACTERS = 4_000_000
"""Of all texts of one request."""
_PURPOSES = {
    pb.EMBED_PURPOSE_UNSPECIFIED: Purpose.NONE,
    pb.EMBED_PURPOSE_QUERY: Purpose.QUERY,
    pb.EMBED_PURPOSE_DOCUMENT: Purpose.DOCUMENT,
}


def embed_request(message: pb.EmbedRequest, *, caller: str, owner: str) -> EmbedRequest:
    """Raises: InvalidArgument for too many characters."""
    inputs = tuple(map(_input, message.inputs))
    _check_characters("inputs", sum(len(each) for each in inputs if isinstance(each, str)))
    return EmbedRequest(
        request_id=_new_id(),
        model=ModelReference.parse(message.model),
        inputs=inputs,
        dimensions=message.dimensions if message.HasField("dimensions") else None,
        purpose=_PURPOSES[message.purpose],
        truncate=message.truncate,
        normalize=message.normalize if message.HasField("normalize") else None,
        flex=message.service_tier == SERVICE_TIER_FLEX,
        caller=caller,
        owner=owner,
        message_bytes=message.ByteSize(),
    )


def rerank_request(message: pb.RerankRequest, *, caller: str, owner: str) -> RerankRequest:
    """Raises: InvalidArgument for too many characters."""
    documents = tuple(message.documents)
    _check_characters("documents", sum(map(len, documents)))
    return RerankRequest(
        request_id=_new_id(),
        model=ModelReference.parse(message.model),
        query=message.query,
        documents=documents,
        top_n=message.top_n if message.HasField("top_n") else None,
        instruction=message.instruction,
        truncate=message.truncate,
        flex=message.service_tier == SERVICE_TIER_FLEX,
        caller=caller,
        owner=owner,
        message_bytes=message.ByteSize(),
    )


def embed_response(made: Embedded) -> pb.EmbedResponse:
    return pb.EmbedResponse(
        embeddings=[pb.Embedding(values=vector) for vector in made.vectors],
        prompt_tokens=made.prompt_tokens,
        model=made.version.name,
        model_version=made.version.version,
    )


def rerank_response(made: Reranked) -> pb.RerankResponse:
    return pb.RerankResponse(
        results=[
            pb.RerankResult(index=each.index, relevance_score=each.score) for each in made.results
        ],
        prompt_tokens=made.prompt_tokens,
        model=made.version.name,
        model_version=made.version.version,
    )


def _input(message: pb.EmbedInput) -> EmbedInput:
    if message.WhichOneof("input") == "text":
        return message.text
    return array("I", message.tokens.token_ids)


def _check_characters(field: str, characters: int) -> None:
    if characters > MAX_CHARACTERS:
        raise InvalidArgument(
            f"{field}: they have {characters} characters together; send at most"
            f" {MAX_CHARACTERS:,} in one request",
            field=field,
        )


def _new_id() -> str:
    return f"emb-{secrets.token_hex(8)}"
