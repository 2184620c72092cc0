"""Encode calls from messages: limits of the model, kinds of engines."""

from typing import Any

import pytest

from mlxmesh.engine.v1 import engine_pb2 as pb
from mlxmesh_engine.service.convert import ModelLimits
from mlxmesh_engine.service.convert_encode import check_encoding, check_generates, to_encode_call
from mlxmesh_shared.errors import ContextTooLong, FeatureNotSupported, InvalidArgument, MeshError

LIMITS = ModelLimits(vocab_size=100, context_tokens=8, eos_token_ids=frozenset())


def request(*inputs: pb.EncodeInput, **fields: Any) -> pb.EncodeRequest:
    return pb.EncodeRequest(inputs=inputs, encoding=pb.ENCODING_VECTOR, **fields)


def test_a_call():
    message = request(
        pb.EncodeInput(token_ids=[1, 2, 3], second_start=2),
        pb.EncodeInput(token_ids=[99]),
        timeout_ms=1500,
        caller="me",
        background=True,
    )
    found = to_encode_call(message, limits=LIMITS, now_s=10.0)
    assert [each.token_ids.tolist() for each in found.inputs] == [[1, 2, 3], [99]]
    assert [each.second_start for each in found.inputs] == [2, 0]
    assert (found.caller, found.background, found.submitted_s, found.deadline_s) == (
        *("me", True, 10.0),
        11.5,
    )
    assert (found.tokens, found.missing) == (4, 2)


def test_no_limit_of_time():
    assert to_encode_call(request(), limits=LIMITS, now_s=10.0).deadline_s is None


@pytest.mark.parametrize(
    ("bad", "error", "field"),
    [
        (pb.EncodeInput(token_ids=[1] * 9), ContextTooLong, "inputs[1]"),
        (pb.EncodeInput(token_ids=[1, 100]), InvalidArgument, "inputs[1].token_ids"),
        (pb.EncodeInput(token_ids=[2**32 - 1]), InvalidArgument, "inputs[1].token_ids"),
        (pb.EncodeInput(token_ids=[1], second_start=2), InvalidArgument, "inputs[1].second_start"),
    ],
)
def test_an_input_outside_the_models_limits(bad: pb.EncodeInput, error: type[MeshError], field):
    with pytest.raises(error) as caught:
        to_encode_call(request(pb.EncodeInput(token_ids=[1]), bad), limits=LIMITS, now_s=0.0)
    assert caught.value.field == field


@pytest.mark.parametrize("kind", ["generation", "embedding", "rerank", "vision"])
def test_each_kind_serves_its_own_calls_only(kind):
    served = {
        "generate": lambda: check_generates(kind),
        "vector": lambda: check_encoding(pb.ENCODING_VECTOR, kind),
        "score": lambda: check_encoding(pb.ENCODING_SCORE, kind),
    }
    expected = {"embedding": "vector", "rerank": "score"}.get(kind, "generate")
    for name, check in served.items():
        if name == expected:
            check()
        else:
            with pytest.raises(FeatureNotSupported, match=f"of the kind {kind}"):
                check()
