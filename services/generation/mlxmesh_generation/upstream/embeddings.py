"""Embeddings of an upstream: the body of its request, and what its response has. Pure.

Source: OpenAI's API reference, "Create embeddings".
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.encoding import EmbedRequest, Purpose
from mlxmesh_generation.domain.upstream import Capability, Upstream
from mlxmesh_generation.upstream.limits import not_taken
from mlxmesh_shared.errors import FeatureNotSupported, UpstreamUnavailable

_MAX_TOKENS = 2**32 - 1


def check_embeds(request: EmbedRequest, version: ModelVersion, upstream: Upstream) -> None:
    """Raises: FeatureNotSupported for what the upstream does not take."""
    if Capability.EMBEDDING not in upstream.capabilities:
        raise FeatureNotSupported(
            f"model: the upstream of {version} was not added with `--takes embedding`",
            field="model",
        )
    if request.truncate:
        raise not_taken("truncate", version)
    if request.purpose is not Purpose.NONE:
        raise not_taken("purpose", version)
    for place, each in enumerate(request.inputs):
        if not isinstance(each, str):
            raise not_taken(f"inputs[{place}].tokens", version)


def embedding_body(request: EmbedRequest, upstream: Upstream) -> Mapping[str, Any]:
    """The body of a request that was checked."""
    body: dict[str, Any] = {"model": upstream.model_id, "input": list(request.inputs)}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return body


def vectors_of(answer: Any, inputs: int) -> list[Sequence[float]]:
    """The vectors of a response, in the order of the inputs.

    Raises: UpstreamUnavailable for a response that is not what the protocol says.
    """
    try:
        found = {int(one["index"]): array("f", one["embedding"]) for one in answer["data"]}
        vectors: list[Sequence[float]] = [found[index] for index in range(inputs)]
    except (KeyError, TypeError, ValueError, OverflowError):
        vectors = []
    if not vectors or not all(vectors) or len(set(map(len, vectors))) != 1:
        raise UpstreamUnavailable(
            f"the upstream did not return a vector for each of the {inputs} inputs"
        )
    return vectors


def prompt_tokens_of(answer: Mapping[str, Any]) -> int:
    """What an upstream says that it has read; 0 if it does not say."""
    try:
        found = int(answer["usage"]["prompt_tokens"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0
    return found if 0 <= found <= _MAX_TOKENS else 0
