"""What generation relies on of an engine that encodes: one suite for the real one and the fake."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from mlxmesh.engine.v1.engine_pb2 import (
    ENCODING_SCORE,
    ENCODING_VECTOR,
    EncodeInput,
    EncodeRequest,
    ExecuteRequest,
    Submit,
)
from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.error_status import from_failure
from tests.fakes.encoder_models import CONTEXT, VOCAB, write_encoder
from tests.fakes.engine import FakeEngine, FakeEngineOptions
from tests.fakes.engine_child import engine_child

MODULES: Any = [("Pooling", {"pooling_mode_mean_tokens": True}), ("Normalize", {})]


@pytest.fixture(scope="module")
def real_addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    root = tmp_path_factory.mktemp("encoders")
    embedding = write_encoder(root / "embedding", "bert", modules=MODULES)
    rerank = write_encoder(root / "rerank", "bert", labels=1)
    (root / "a").mkdir()
    (root / "b").mkdir()
    with (
        engine_child(root / "a", "--kind", "embedding", model_dir=embedding) as vectors,
        engine_child(root / "b", "--kind", "rerank", model_dir=rerank) as scores,
    ):
        yield {"embedding": vectors, "rerank": scores}


@pytest.fixture(params=["fake", "real"])
async def stubs(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, EngineServiceStub]]:
    """By kind."""
    if request.param == "real":
        addresses = request.getfixturevalue("real_addresses")
        async with (
            open_channel(addresses["embedding"]) as one,
            open_channel(addresses["rerank"]) as other,
        ):
            yield {"embedding": EngineServiceStub(one), "rerank": EngineServiceStub(other)}
        return
    options = [
        FakeEngineOptions(kind=kind, vocab_size=VOCAB, context_tokens=CONTEXT)
        for kind in ("embedding", "rerank")
    ]
    async with (
        FakeEngine(options[0]).running() as first,
        FakeEngine(options[1]).running() as second,
        open_channel(first.instance.address) as one,
        open_channel(second.instance.address) as other,
    ):
        yield {"embedding": EngineServiceStub(one), "rerank": EngineServiceStub(other)}


def request(*token_ids: list[int], encoding: Any = ENCODING_VECTOR, **fields: Any) -> EncodeRequest:
    inputs = [EncodeInput(token_ids=each) for each in token_ids]
    return EncodeRequest(inputs=inputs, encoding=encoding, **fields)


async def test_each_input_has_a_vector_and_the_same_one_in_any_company(stubs: Any) -> None:
    stub = stubs["embedding"]
    texts = [[1, 5, 2], [1, 9, 9, 9, 2], [1, 5, 2]]
    together = await stub.Encode(request(*texts))
    first, second, again = (list(each.values) for each in together.vectors)
    assert first == pytest.approx(again, abs=1e-6)
    assert first != pytest.approx(second, abs=1e-3)
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert not together.scores
    assert together.HasField("load")
    alone = await stub.Encode(request(texts[1], background=True, caller="ada", timeout_ms=60_000))
    assert list(alone.vectors[0].values) == pytest.approx(second, abs=1e-5)


async def test_each_pair_has_a_score(stubs: Any) -> None:
    pair = EncodeInput(token_ids=[1, 5, 2, 6, 2], second_start=3)
    asked = EncodeRequest(inputs=[pair, pair], encoding=ENCODING_SCORE)
    response = await stubs["rerank"].Encode(asked)
    assert len(response.scores) == 2
    assert response.scores[0] == pytest.approx(response.scores[1], abs=1e-6)
    assert not response.vectors


async def test_what_an_engine_does_not_compute_is_refused(stubs: Any) -> None:
    for kind, encoding in (("embedding", ENCODING_SCORE), ("rerank", ENCODING_VECTOR)):
        with pytest.raises(FeatureNotSupported):
            await stubs[kind].Encode(request([1, 2], encoding=encoding))


@pytest.mark.parametrize("token_ids", [[1, VOCAB], [1] * (CONTEXT + 1)])
async def test_what_does_not_fit_the_model_names_the_input(
    stubs: Any, token_ids: list[int]
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await stubs["embedding"].Encode(request([1, 2], token_ids))
    assert refused.value.field.startswith("inputs[1]")


async def test_its_stream_tells_the_load_and_refuses_sequences(stubs: Any) -> None:
    """By the stream, generation knows that the engine is there and that it is not frozen."""
    async with asyncio.timeout(20):
        call: Any = stubs["embedding"].Execute()
        assert (await call.read()).HasField("load")
        submit = Submit(sequence_id=1, prompt_token_ids=[1], max_tokens=1)
        await call.write(ExecuteRequest(submit=submit))
        while not (outputs := (await call.read()).outputs):
            pass
        assert isinstance(from_failure(outputs[0].failure), FeatureNotSupported)
        call.cancel()
