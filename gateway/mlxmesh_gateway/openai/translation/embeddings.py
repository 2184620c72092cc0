"""Bodies of requests of /v1/embeddings as work, and results as bodies of responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh_gateway.http.schema import read_request
from mlxmesh_gateway.openai.embedding_convert import PURPOSES, base64_of
from mlxmesh_gateway.openai.embedding_schema import EmbeddingRequest
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

Body = Mapping[str, Any]
_MAX_INPUTS = 2048


def translate(body: Body, *, refuse_unknown: bool) -> tuple[pb.EmbeddingWork, list[str]]:
    """The work, and the paths of unknown fields. Raises: InvalidArgument, FeatureNotSupported."""
    request, unknown = read_request(EmbeddingRequest, body, refuse_unknown=refuse_unknown)
    work = pb.EmbeddingWork(
        model=request.model,
        inputs=_texts(request),
        dimensions=_dimensions(request),
        purpose=PURPOSES[request.purpose],
        truncate=bool(request.truncate),
        normalize=request.normalize,
    )
    return work, unknown


def render(body: Body, result: pb.EmbeddingResult) -> Mapping[str, object]:
    """The body of the response to a request that was translated before."""
    request, _ = read_request(EmbeddingRequest, body)
    encoded = request.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": number,
            "embedding": base64_of(one.values) if encoded else list(one.values),
        }
        for number, one in enumerate(result.vectors)
    ]
    usage = {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}


def _texts(request: EmbeddingRequest) -> list[str]:
    asked = request.input
    texts = [asked] if isinstance(asked, str) else [one for one in asked if isinstance(one, str)]
    if not isinstance(asked, str) and len(texts) != len(asked):
        raise FeatureNotSupported(
            "input is not supported as token ids: send it as texts", field="input"
        )
    if not 1 <= len(texts) <= _MAX_INPUTS or not all(texts):
        raise InvalidArgument(
            f"input must be 1 to {_MAX_INPUTS} texts, none of them empty", field="input"
        )
    return texts


def _dimensions(request: EmbeddingRequest) -> int:
    """Of the contract, where 0 is the default."""
    if request.dimensions == 0:
        raise InvalidArgument("dimensions must be 1 or more", field="dimensions")
    return request.dimensions or 0
