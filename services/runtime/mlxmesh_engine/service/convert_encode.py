"""Converts encode calls; checks the kind of the engine, vocabulary and context."""

from collections.abc import Iterator

import numpy as np

from mlxmesh.engine.v1 import engine_pb2
from mlxmesh_engine.encoder.inputs import EncodeCall, TokenInput
from mlxmesh_engine.service.convert import ModelLimits
from mlxmesh_shared.errors import ContextTooLong, FeatureNotSupported, InvalidArgument

_KINDS = {
    engine_pb2.ENCODING_VECTOR: ("embedding", "vectors"),
    engine_pb2.ENCODING_SCORE: ("rerank", "scores"),
}
_SERVED = {
    "embedding": "makes vectors (call Embed, or /v1/embeddings)",
    "rerank": "scores documents (call Rerank, or /v1/rerank)",
    "generation": "generates text (call Generate)",
    "vision": "generates text (call Generate)",
}


def check_generates(kind: str) -> None:
    """Raises: FeatureNotSupported on an engine that encodes."""
    if kind in ("embedding", "rerank"):
        raise FeatureNotSupported(
            f"this engine is of the kind {kind}: it {_SERVED[kind]} and generates nothing",
            field="model",
        )


def check_encoding(encoding: engine_pb2.Encoding.ValueType, kind: str) -> None:
    """Raises: FeatureNotSupported on an engine of another kind."""
    needed, what = _KINDS[encoding]
    if kind != needed:
        raise FeatureNotSupported(
            f"this engine is of the kind {kind}: it {_SERVED[kind]} and makes no {what}",
            field="encoding",
        )


def to_encode_call(
    request: engine_pb2.EncodeRequest, *, limits: ModelLimits, now_s: float
) -> EncodeCall:
    """Raises: InvalidArgument, ContextTooLong; both name the input."""
    return EncodeCall(
        inputs=tuple(_inputs(request, limits)),
        caller=request.caller,
        background=request.background,
        submitted_s=now_s,
        deadline_s=now_s + request.timeout_ms / 1e3 if request.HasField("timeout_ms") else None,
    )


def _inputs(request: engine_pb2.EncodeRequest, limits: ModelLimits) -> Iterator[TokenInput]:
    for index, each in enumerate(request.inputs):
        field = f"inputs[{index}]"
        token_ids = np.fromiter(each.token_ids, np.int64, len(each.token_ids))
        if len(token_ids) > limits.context_tokens:
            raise ContextTooLong(
                f"{field} has {len(token_ids)} tokens; the model takes {limits.context_tokens}: "
                "shorten it, or have it truncated",
                field=field,
            )
        if (largest := int(token_ids.max())) >= limits.vocab_size:
            raise InvalidArgument(
                f"{field} has the token id {largest}; the largest is {limits.vocab_size - 1}",
                field=f"{field}.token_ids",
            )
        if each.second_start > len(token_ids):
            raise InvalidArgument(
                f"{field}.second_start is {each.second_start}, past its {len(token_ids)} tokens",
                field=f"{field}.second_start",
            )
        yield TokenInput(token_ids.astype(np.int32), each.second_start)


def to_encode_response(
    call: EncodeCall, encoding: engine_pb2.Encoding.ValueType, load: engine_pb2.EngineLoad
) -> engine_pb2.EncodeResponse:
    """The results of a call that has all of them."""
    results = [result for result in call.results if result is not None]
    if encoding == engine_pb2.ENCODING_SCORE:
        return engine_pb2.EncodeResponse(scores=[float(each[0]) for each in results], load=load)
    vectors = [engine_pb2.Vector(values=each.tolist()) for each in results]
    return engine_pb2.EncodeResponse(vectors=vectors, load=load)
