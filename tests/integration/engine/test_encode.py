"""EngineService.Encode of an engine process."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from mlxmesh.engine.v1 import engine_pb2 as pb
from mlxmesh.engine.v1 import engine_pb2_grpc
from mlxmesh_shared.errors import (
    ContextTooLong,
    DeadlineExceeded,
    FeatureNotSupported,
    InvalidArgument,
    MeshError,
)
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.encoder_models import CONTEXT, HIDDEN, VOCAB, Reference, pooled, write_encoder
from tests.integration.engine.test_process import Process, engine

TEXTS = ([1, 2, 3], [4] * 40, [5])


@contextlib.asynccontextmanager
async def encoder(
    path: Path, kind: str
) -> AsyncIterator[tuple[engine_pb2_grpc.EngineServiceStub, Process]]:
    arguments = ("--model-dir", str(path), "--kind", kind, "--model", "m", "--no-telemetry")
    async with engine(*arguments, "--data-dir", str(path.parent)) as process:
        channel = open_channel(await process.address(), role="engine")
        try:
            yield engine_pb2_grpc.EngineServiceStub(channel), process
        finally:
            await channel.close()


def inputs(*texts: list[int]) -> list[pb.EncodeInput]:
    return [pb.EncodeInput(token_ids=text) for text in texts]


async def test_vectors_and_what_an_engine_of_embeddings_refuses(tmp_path: Path):
    path = write_encoder(tmp_path / "m", "bert")
    reference = Reference(path)
    async with encoder(path, "embedding") as (stub, process):
        info = await stub.GetEngineInfo(pb.GetEngineInfoRequest())
        assert (info.kind, info.dimensions, info.context_tokens) == ("embedding", HIDDEN, CONTEXT)
        request = pb.EncodeRequest(inputs=inputs(*TEXTS), encoding=pb.ENCODING_VECTOR)
        answer = await stub.Encode(request)
        expected = [pooled(reference.hidden(text), "mean") for text in TEXTS]
        found = [list(vector.values) for vector in answer.vectors]
        np.testing.assert_allclose(found, expected, atol=3e-5)
        assert (list(answer.scores), answer.load.prompt_tokens) == ([], 44)

        await _check_refusals(stub)
        await _check_no_sequences(stub)

        slow = pb.EncodeRequest(
            inputs=inputs(*[[1] * CONTEXT] * 2048), encoding=pb.ENCODING_VECTOR, timeout_ms=1
        )
        with pytest.raises(DeadlineExceeded):
            await stub.Encode(slow)
        # And it drains: a call that runs gets its answer.
        running = asyncio.ensure_future(stub.Encode(request))
        while not running.done():
            load = (await stub.GetEngineInfo(pb.GetEngineInfoRequest())).load
            if load.running or load.waiting:
                break
        os.kill(process.process.pid, signal.SIGTERM)
        assert len((await running).vectors) == len(TEXTS)
        assert await process.ended() == 0


async def _check_refusals(stub: engine_pb2_grpc.EngineServiceStub) -> None:
    refused: list[tuple[pb.EncodeRequest, type[MeshError], str]] = [
        (pb.EncodeRequest(inputs=inputs([1])), InvalidArgument, "encoding"),
        (pb.EncodeRequest(encoding=pb.ENCODING_VECTOR), InvalidArgument, "inputs"),
        (
            pb.EncodeRequest(inputs=inputs([]), encoding=pb.ENCODING_VECTOR),
            InvalidArgument,
            "inputs[0].token_ids",
        ),
        (
            pb.EncodeRequest(inputs=inputs(*[[1]] * 2049), encoding=pb.ENCODING_VECTOR),
            InvalidArgument,
            "inputs",
        ),
        (
            pb.EncodeRequest(inputs=inputs([1]), encoding=pb.ENCODING_VECTOR, caller="c" * 129),
            InvalidArgument,
            "caller",
        ),
        (
            pb.EncodeRequest(inputs=inputs([1]), encoding=pb.ENCODING_VECTOR, timeout_ms=0),
            InvalidArgument,
            "timeout_ms",
        ),
        (
            pb.EncodeRequest(
                inputs=[pb.EncodeInput(token_ids=[1], second_start=1_000_001)],
                encoding=pb.ENCODING_VECTOR,
            ),
            InvalidArgument,
            "inputs[0].second_start",
        ),
        (
            pb.EncodeRequest(inputs=inputs([1], [VOCAB]), encoding=pb.ENCODING_VECTOR),
            InvalidArgument,
            "inputs[1].token_ids",
        ),
        (
            pb.EncodeRequest(inputs=inputs([1] * (CONTEXT + 1)), encoding=pb.ENCODING_VECTOR),
            ContextTooLong,
            "inputs[0]",
        ),
        (
            pb.EncodeRequest(inputs=inputs([1]), encoding=pb.ENCODING_SCORE),
            FeatureNotSupported,
            "encoding",
        ),
    ]
    for request, error, field in refused:
        with pytest.raises(error) as caught:
            await stub.Encode(request)
        assert caught.value.field == field


async def _check_no_sequences(stub: engine_pb2_grpc.EngineServiceStub) -> None:
    submit = pb.Submit(sequence_id=1, prompt_token_ids=[1], max_tokens=4)
    async for response in stub.Execute(iter([pb.ExecuteRequest(submit=submit)])):
        for output in response.outputs:
            assert output.failure.reason == "FEATURE_NOT_SUPPORTED"
            assert "embedding" in output.failure.message


async def test_scores(tmp_path: Path):
    path = write_encoder(tmp_path / "m", "xlm-roberta", labels=1, prefix="roberta.")
    reference = Reference(path, "roberta.")
    async with encoder(path, "rerank") as (stub, _):
        info = await stub.GetEngineInfo(pb.GetEngineInfoRequest())
        assert (info.kind, info.dimensions) == ("rerank", 0)
        request = pb.EncodeRequest(inputs=inputs(*TEXTS), encoding=pb.ENCODING_SCORE)
        answer = await stub.Encode(request)
        np.testing.assert_allclose(answer.scores, [reference.score(t) for t in TEXTS], atol=3e-5)
        assert not answer.vectors
        with pytest.raises(FeatureNotSupported, match="kind rerank"):
            await stub.Encode(pb.EncodeRequest(inputs=inputs([1]), encoding=pb.ENCODING_VECTOR))


async def test_an_engine_that_generates_refuses_to_encode(tiny_model: Path):
    async with encoder(tiny_model, "generation") as (stub, _):
        info = await stub.GetEngineInfo(pb.GetEngineInfoRequest())
        assert (info.kind, info.dimensions) == ("generation", 0)
        with pytest.raises(FeatureNotSupported, match="generates text"):
            await stub.Encode(pb.EncodeRequest(inputs=inputs([1]), encoding=pb.ENCODING_VECTOR))


async def test_a_model_of_another_kind_is_refused_for_good(tmp_path: Path):
    path = write_encoder(tmp_path / "m", "bert")
    arguments = ("--model-dir", str(path), "--kind", "rerank", "--data-dir", str(tmp_path))
    async with engine(*arguments, "--no-telemetry") as process:
        with pytest.raises(AssertionError):
            await process.address()
        assert process.outputs[-1]["permanent"] is True
        assert "no head that scores" in process.outputs[-1]["message"]
