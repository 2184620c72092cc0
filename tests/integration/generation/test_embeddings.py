"""EmbeddingService over real gRPC, with fake engines and a fake upstream."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlxmesh.engine.v1.engine_pb2 import ENCODING_SCORE, ENCODING_VECTOR
from mlxmesh.generation.v1.embedding_pb2 import (
    EMBED_PURPOSE_QUERY,
    EmbedInput,
    EmbedRequest,
    EmbedTokens,
    RerankRequest,
    RerankResponse,
)
from mlxmesh.generation.v1.generation_pb2 import SERVICE_TIER_FLEX, GenerateRequest
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.model.v1.ensemble_pb2 import EnsembleRecipe, FallbackRecipe
from mlxmesh.model.v1.history_pb2 import OUTCOME_STATUS_COMPLETED, OUTCOME_STATUS_REFUSED
from mlxmesh.model.v1.model_pb2 import (
    MODEL_KIND_GENERATION,
    VERSION_STATE_READY,
    Model,
    ModelVersion,
)
from mlxmesh.model.v1.upstream_pb2 import (
    UPSTREAM_CAPABILITY_CHAT,
    UPSTREAM_CAPABILITY_EMBEDDING,
    Upstream,
    UpstreamCapability,
)
from mlxmesh_shared.errors import (
    ContextTooLong,
    DeadlineExceeded,
    EngineDraining,
    EngineFailed,
    EngineLost,
    FeatureNotSupported,
    InvalidArgument,
    MeshError,
    ModelNotFound,
    ModelNotLoaded,
    QueueFull,
    UpstreamUnavailable,
)
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes import encoder_tokenizers
from tests.fakes.encoding import score_of, vector_of
from tests.fakes.openai_upstream import MODEL, running_upstream
from tests.fakes.waiting import until
from tests.integration.generation.encoding_mesh import (
    EncodingMesh,
    encoder_engine,
    encoder_model,
    encoding_mesh,
)


@pytest.fixture(scope="module")
def bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_tokenizers.bert(
        tmp_path_factory.mktemp("bert") / "files",
        modules=[{"type": "sentence_transformers.models.Normalize", "path": ""}],
    )


@pytest.fixture
async def mesh(tmp_path: Path, bert_dir: Path) -> AsyncIterator[EncodingMesh]:
    async with encoding_mesh(tmp_path, bert_dir, engines=2) as running:
        yield running


@pytest.fixture
async def ranking(tmp_path: Path, bert_dir: Path) -> AsyncIterator[EncodingMesh]:
    async with encoding_mesh(tmp_path, bert_dir, kind="rerank") as running:
        yield running


def texts(*inputs: str, model: str = "small", **fields: Any) -> EmbedRequest:
    return EmbedRequest(model=model, inputs=[EmbedInput(text=each) for each in inputs], **fields)


def tokens(*inputs: Sequence[int], **fields: Any) -> EmbedRequest:
    given = [EmbedInput(tokens=EmbedTokens(token_ids=each)) for each in inputs]
    return EmbedRequest(model="small", inputs=given, **fields)


def rerank(*documents: str, model: str = "small", query: str = "fox", **fields: Any) -> Any:
    return RerankRequest(model=model, query=query, documents=documents, **fields)


async def refusal(call: Any) -> grpc.aio.AioRpcError | Exception:
    with pytest.raises(Exception) as refused:  # noqa: PT011 - the caller looks at it
        await call
    return refused.value


@pytest.mark.parametrize("model", ["small", "small@1", "small:stable"])
async def test_each_input_has_its_vector_in_order(mesh: EncodingMesh, model: str) -> None:
    response = await mesh.stub.Embed(texts("a", "bb", "a fox", model=model))
    engines = [each for engine in mesh.engines for each in engine.encoding.requests]
    sent = [given for request in engines for given in request.inputs]
    assert [list(each.values) for each in response.embeddings] == [
        pytest.approx(vector_of(given.token_ids, 4)) for given in sent
    ]
    assert (response.model, response.model_version) == ("small", 1)
    assert response.prompt_tokens == sum(len(given.token_ids) for given in sent)
    assert {request.encoding for request in engines} == {ENCODING_VECTOR}


async def test_dimensions_shorten_and_normalize(mesh: EncodingMesh) -> None:
    whole = await mesh.stub.Embed(tokens([5, 6]))
    short = await mesh.stub.Embed(tokens([5, 6], dimensions=2))
    first = list(whole.embeddings[0].values)[:2]
    length = math.hypot(*first)
    assert list(short.embeddings[0].values) == pytest.approx([each / length for each in first])


async def test_a_large_request_is_spread_over_the_replicas_and_keeps_its_order(
    mesh: EncodingMesh,
) -> None:
    given = [[number % 400 + 3] * 40 for number in range(600)]
    response = await mesh.stub.Embed(tokens(*given))
    assert [list(each.values) for each in response.embeddings] == [
        pytest.approx(vector_of(each, 4), rel=1e-5) for each in given
    ]
    counts = [
        sum(len(request.inputs) for request in engine.encoding.requests) for engine in mesh.engines
    ]
    assert sum(counts) == 600
    assert min(counts) >= 100


async def test_scores_order_the_documents(ranking: EncodingMesh) -> None:
    documents = ("a", "a fox and a dog", "a", "a fox")
    response: RerankResponse = await ranking.stub.Rerank(rerank(*documents))
    (request,) = ranking.engines[0].encoding.requests
    assert request.encoding == ENCODING_SCORE
    logits = [score_of(given) for given in request.inputs]
    assert [each.index for each in response.results] == [1, 3, 0, 2]
    for each in response.results:
        assert each.relevance_score == pytest.approx(1 / (1 + math.exp(-logits[each.index])))
    assert response.prompt_tokens == sum(len(given.token_ids) for given in request.inputs)
    top = await ranking.stub.Rerank(rerank(*documents, top_n=1))
    assert [each.index for each in top.results] == [1]


async def test_flex_runs_in_the_background_and_callers_are_told_apart(mesh: EncodingMesh) -> None:
    metadata = (("mlxmesh-caller", "ada"),)
    await mesh.stub.Embed(texts("a", service_tier=SERVICE_TIER_FLEX), metadata=metadata)
    (request,) = [each for engine in mesh.engines for each in engine.encoding.requests]
    assert request.background
    assert request.caller == "ada"


async def test_an_engine_that_is_lost_costs_no_call(mesh: EncodingMesh) -> None:
    for engine in mesh.engines:
        engine.encoding.may_answer.clear()
    calls = [asyncio.ensure_future(mesh.stub.Embed(texts(f"text {n}"))) for n in range(8)]
    await until(lambda: all(engine.encoding.running for engine in mesh.engines))
    lost, other = mesh.engines
    await lost.stop()
    await mesh.registry.deregister(lost.instance)
    other.encoding.may_answer.set()
    responses = await asyncio.gather(*calls)
    assert [len(response.embeddings) for response in responses] == [1] * 8


async def test_the_only_engine_may_come_back(mesh: EncodingMesh) -> None:
    first, second = mesh.engines
    await mesh.registry.deregister(second.instance)
    first.encoding.may_answer.clear()
    await until(lambda: not second.streams)
    call = asyncio.ensure_future(mesh.stub.Embed(texts("a")))
    await until(lambda: first.encoding.running > 0)
    await first.stop()
    await mesh.registry.deregister(first.instance)
    async with encoder_engine("embedding", "engine-1") as reborn:
        await mesh.registry.register(reborn.instance)
        assert len((await call).embeddings) == 1


async def test_a_frozen_engine_loses_its_calls_to_another(mesh: EncodingMesh) -> None:
    frozen = mesh.engines[0]
    for engine in mesh.engines:
        engine.encoding.may_answer.clear()
    calls = [asyncio.ensure_future(mesh.stub.Embed(texts(f"text {n}"))) for n in range(2)]
    await until(lambda: all(engine.encoding.running for engine in mesh.engines))
    mesh.engines[1].encoding.may_answer.set()
    frozen.silent = True
    assert [len(each.embeddings) for each in await asyncio.gather(*calls)] == [1, 1]
    assert not frozen.encoding.running


async def test_texts_that_end_every_engine_end_too(tmp_path: Path, bert_dir: Path) -> None:
    async with encoding_mesh(tmp_path, bert_dir, engines=3) as mesh:
        for engine in mesh.engines:
            engine.encoding.may_answer.clear()
        call = asyncio.ensure_future(mesh.stub.Embed(texts("a")))
        left = list(mesh.engines)
        for _ in range(3):
            await until(lambda: any(engine.encoding.running for engine in left))
            (busy,) = [engine for engine in left if engine.encoding.running]
            left.remove(busy)
            await busy.stop()
            await mesh.registry.deregister(busy.instance)
        assert isinstance(await refusal(call), EngineLost)


@pytest.mark.parametrize(
    "error", [QueueFull("full", retry_delay_s=0.1), EngineDraining("stopping")]
)
async def test_an_engine_that_refuses_is_left_for_another(
    mesh: EncodingMesh, error: MeshError
) -> None:
    for engine in mesh.engines:
        engine.encoding.refuse_next.append(error)
    response = await mesh.stub.Embed(texts("a"))
    assert len(response.embeddings) == 1
    assert not any(engine.encoding.refuse_next for engine in mesh.engines)


async def test_a_failure_of_the_engine_is_no_reason_to_repeat(mesh: EncodingMesh) -> None:
    for engine in mesh.engines:
        engine.encoding.refuse_next.append(EngineFailed("the step failed"))
    assert isinstance(await refusal(mesh.stub.Embed(texts("a"))), EngineFailed)
    assert sum(len(engine.encoding.refuse_next) for engine in mesh.engines) == 1


async def test_the_deadline_reaches_the_engine_and_ends_the_call(mesh: EncodingMesh) -> None:
    for engine in mesh.engines:
        engine.encoding.may_answer.clear()
    error = await refusal(mesh.stub.Embed(texts("a"), timeout=0.5))
    assert isinstance(error, DeadlineExceeded)
    (request,) = [each for engine in mesh.engines for each in engine.encoding.requests]
    assert 1 <= request.timeout_ms < 500


async def test_a_caller_that_leaves_releases_the_engine(mesh: EncodingMesh) -> None:
    for engine in mesh.engines:
        engine.encoding.may_answer.clear()
    call = mesh.stub.Embed(texts("a"))
    waiting = asyncio.ensure_future(call)
    await until(lambda: any(engine.encoding.running for engine in mesh.engines))
    call.cancel()
    await until(lambda: not any(engine.encoding.running for engine in mesh.engines))
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize(
    ("request_", "error", "field"),
    [
        (EmbedRequest(model="small"), InvalidArgument, "inputs"),
        (EmbedRequest(inputs=[EmbedInput(text="a")]), InvalidArgument, "model"),
        (texts("a", model="../ etc"), InvalidArgument, "model"),
        (texts("a", model="nobody"), ModelNotFound, "model"),
        (texts("a", model="small@2"), ModelNotFound, "model"),
        (texts("a", ""), InvalidArgument, "inputs[1].text"),
        (EmbedRequest(model="small", inputs=[EmbedInput()]), InvalidArgument, "inputs[0].input"),
        (tokens([]), InvalidArgument, "inputs[0].tokens.token_ids"),
        (tokens([1], [1, 500]), InvalidArgument, "inputs[1].tokens.token_ids[1]"),
        (tokens([1] * 65), ContextTooLong, "inputs[0].tokens"),
        (texts("a", "fox " * 90), ContextTooLong, "inputs[1].text"),
        (texts(*["x" * 1_000_000] * 4, "x"), InvalidArgument, "inputs"),
        (texts(*["a"] * 2049), InvalidArgument, "inputs"),
        (texts("a", dimensions=0), InvalidArgument, "dimensions"),
        (texts("a", dimensions=5), InvalidArgument, "dimensions"),
        (texts("a", dimensions=65_537), InvalidArgument, "dimensions"),
        (texts("a", purpose=9), InvalidArgument, "purpose"),
        (texts("a", service_tier=9), InvalidArgument, "service_tier"),
        (texts("a", normalize=False), FeatureNotSupported, "normalize"),
    ],
)
async def test_what_cannot_be_embedded_names_its_field_and_reaches_no_engine(
    mesh: EncodingMesh, request_: EmbedRequest, error: type[Exception], field: str
) -> None:
    refused = await refusal(mesh.stub.Embed(request_))
    assert isinstance(refused, error)
    assert getattr(refused, "field", None) == field
    assert not any(engine.encoding.requests for engine in mesh.engines)


@pytest.mark.parametrize(
    ("request_", "error", "field"),
    [
        (RerankRequest(model="small", documents=["a"]), InvalidArgument, "query"),
        (RerankRequest(model="small", query="a"), InvalidArgument, "documents"),
        (RerankRequest(query="a", documents=["a"]), InvalidArgument, "model"),
        (rerank("a", model="nobody"), ModelNotFound, "model"),
        (rerank("a", ""), InvalidArgument, "documents[1]"),
        (rerank(*["a"] * 2049), InvalidArgument, "documents"),
        (rerank(*["x" * 1_000_000] * 4, "x"), InvalidArgument, "documents"),
        (rerank("a", "fox " * 90), ContextTooLong, "documents[1]"),
        (rerank("a", query="fox " * 90), ContextTooLong, "query"),
        (rerank("a", query="x" * 1_000_001), InvalidArgument, "query"),
        (rerank("a", top_n=0), InvalidArgument, "top_n"),
        (rerank("a", instruction="x" * 65_537), InvalidArgument, "instruction"),
        (rerank("a", service_tier=9), InvalidArgument, "service_tier"),
    ],
)
async def test_what_cannot_be_ranked_names_its_field_and_reaches_no_engine(
    ranking: EncodingMesh, request_: RerankRequest, error: type[Exception], field: str
) -> None:
    refused = await refusal(ranking.stub.Rerank(request_))
    assert isinstance(refused, error)
    assert getattr(refused, "field", None) == field
    assert not ranking.engines[0].encoding.requests


async def test_vectors_that_fit_into_no_message_are_refused_before_they_are_made(
    mesh: EncodingMesh, bert_dir: Path
) -> None:
    mesh.models.put(encoder_model(dimensions=8192), bert_dir)
    await until_kind(mesh, dimensions=8192)
    refused = await refusal(mesh.stub.Embed(texts(*["a"] * 513)))
    assert isinstance(refused, InvalidArgument)
    assert refused.field == "inputs"
    assert "at most 512" in refused.message


async def until_kind(mesh: EncodingMesh, *, dimensions: int) -> None:
    """Returns once the generation service knows the model's dimensions."""
    while True:
        asked = texts("a", dimensions=dimensions + 1)
        refused = await refusal(mesh.stub.Embed(asked))
        if f"the {dimensions} that" in getattr(refused, "message", ""):
            return


async def test_a_model_of_another_kind_is_refused_by_name(
    mesh: EncodingMesh, ranking: EncodingMesh, bert_dir: Path
) -> None:
    generating = encoder_model(kind="embedding")
    generating.name = "writer"
    generating.versions[0].kind = MODEL_KIND_GENERATION
    mesh.models.put(generating, bert_dir)
    ensemble = Model(
        name="pair",
        ensemble=EnsembleRecipe(fallback=FallbackRecipe(models=["small", "writer"])),
    )
    mesh.models.put(ensemble)
    await until_known(mesh, "pair")
    for call, says in (
        (mesh.stub.Embed(texts("a", model="writer")), "generation"),
        (mesh.stub.Embed(texts("a", model="pair")), "ensemble"),
        (mesh.stub.Rerank(rerank("a")), "embedding"),
        (ranking.stub.Embed(texts("a")), "rerank"),
    ):
        refused = await refusal(call)
        assert isinstance(refused, FeatureNotSupported)
        assert refused.field == "model"
        assert says in refused.message


async def until_known(mesh: EncodingMesh, model: str) -> None:
    while isinstance(await refusal(mesh.stub.Embed(texts("a", model=model))), ModelNotFound):
        pass


async def test_an_encoder_generates_nothing(mesh: EncodingMesh) -> None:
    async with open_channel(mesh.address) as channel:
        call = GenerationServiceStub(channel).Generate(GenerateRequest(model="small", prompt="a"))
        refused = await refusal(anext(aiter(call)))
    assert isinstance(refused, FeatureNotSupported)
    assert "/v1/embeddings" in refused.message


async def test_a_model_is_loaded_when_it_is_asked_for(tmp_path: Path, bert_dir: Path) -> None:
    async with (
        encoding_mesh(tmp_path, bert_dir, engines=0) as mesh,
        encoder_engine("embedding", "engine-1") as engine,
    ):
        call = asyncio.ensure_future(mesh.stub.Embed(texts("a")))
        await until(lambda: ("small", 1) in mesh.models.load_requests)
        await mesh.registry.register(engine.instance)
        assert len((await call).embeddings) == 1


async def test_a_model_that_is_not_loaded_on_demand_is_refused(
    tmp_path: Path, bert_dir: Path
) -> None:
    async with encoding_mesh(tmp_path, bert_dir, engines=0) as mesh:
        unloaded = encoder_model(on_demand=False)
        unloaded.name = "unloaded"
        unloaded.versions[0].desired_replicas = 0
        mesh.models.put(unloaded, bert_dir)
        while isinstance(
            refused := await refusal(mesh.stub.Embed(texts("a", model="unloaded"))), ModelNotFound
        ):
            pass
        assert isinstance(refused, ModelNotLoaded)


async def test_outcomes_have_tokens_and_cost(mesh: EncodingMesh) -> None:
    owner = (("mlxmesh-owner", "user:ada"),)
    done = await mesh.stub.Embed(texts("a fox"), metadata=owner)
    half = await mesh.stub.Embed(texts("a fox", service_tier=SERVICE_TIER_FLEX), metadata=owner)
    await refusal(mesh.stub.Embed(texts("fox " * 90), metadata=owner))
    await until(lambda: len(mesh.models.history.outcomes) == 3)
    recorded = mesh.models.history.outcomes
    assert [each.status for each in recorded] == [
        OUTCOME_STATUS_COMPLETED,
        OUTCOME_STATUS_COMPLETED,
        OUTCOME_STATUS_REFUSED,
    ]
    assert [each.prompt_tokens for each in recorded] == [done.prompt_tokens, half.prompt_tokens, 0]
    assert [each.cost for each in recorded] == [done.prompt_tokens, half.prompt_tokens / 2, 0]
    assert {each.principal for each in recorded} == {"user:ada"}
    assert recorded[2].error_reason == "CONTEXT_TOO_LONG"


# Upstreams.


def far(
    url: str,
    *,
    capability: UpstreamCapability.ValueType = UPSTREAM_CAPABILITY_EMBEDDING,
    desired: int = 1,
) -> Model:
    upstream = Upstream(base_url=url, model_id=MODEL, capabilities=[capability])
    version = ModelVersion(
        version=1, state=VERSION_STATE_READY, upstream=upstream, desired_replicas=desired
    )
    return Model(name="far", versions=[version], default_version=1)


async def test_an_upstream_answers(mesh: EncodingMesh) -> None:
    async with running_upstream() as upstream:
        mesh.models.put(far(upstream.url))
        await until_embeds(mesh)
        upstream.requests.clear()
        response = await mesh.stub.Embed(texts("one", "three", model="far", dimensions=2))
        assert [list(each.values) for each in response.embeddings] == [[3.0, 1.0], [5.0, 1.0]]
        assert (response.model, response.model_version, response.prompt_tokens) == ("far", 1, 2)
        assert upstream.requests == [{"model": MODEL, "input": ["one", "three"], "dimensions": 2}]
        unit = await mesh.stub.Embed(texts("one", model="far", normalize=True))
        assert math.hypot(*unit.embeddings[0].values) == pytest.approx(1)


async def until_embeds(mesh: EncodingMesh) -> None:
    while True:
        try:
            await mesh.stub.Embed(texts("a", model="far"))
        except ModelNotFound:
            continue
        return


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (texts("a", model="far", truncate=True), "truncate"),
        (texts("a", model="far", purpose=EMBED_PURPOSE_QUERY), "purpose"),
        (
            EmbedRequest(model="far", inputs=[EmbedInput(tokens=EmbedTokens(token_ids=[1]))]),
            "inputs[0].tokens",
        ),
    ],
)
async def test_what_an_upstream_does_not_take_is_refused_by_name(
    mesh: EncodingMesh, request_: EmbedRequest, field: str
) -> None:
    async with running_upstream() as upstream:
        mesh.models.put(far(upstream.url))
        await until_embeds(mesh)
        upstream.requests.clear()
        refused = await refusal(mesh.stub.Embed(request_))
        assert isinstance(refused, FeatureNotSupported)
        assert refused.field == field
        refused = await refusal(mesh.stub.Rerank(rerank("a", model="far")))
        assert isinstance(refused, FeatureNotSupported)
        assert not upstream.requests


async def test_an_upstream_that_only_talks_is_refused(mesh: EncodingMesh) -> None:
    mesh.models.put(far("http://127.0.0.1:1/v1", capability=UPSTREAM_CAPABILITY_CHAT))
    await until_known(mesh, "far")
    refused = await refusal(mesh.stub.Embed(texts("a", model="far")))
    assert isinstance(refused, FeatureNotSupported)
    assert "--takes embedding" in refused.message


async def test_an_upstream_that_fails_is_asked_twice_and_told_of(mesh: EncodingMesh) -> None:
    async with running_upstream() as upstream:
        mesh.models.put(far(upstream.url))
        await until_embeds(mesh)
        upstream.requests.clear()
        upstream.script.status = 503
        refused = await refusal(mesh.stub.Embed(texts("a", model="far")))
        assert isinstance(refused, UpstreamUnavailable)
        assert len(upstream.requests) == 2
