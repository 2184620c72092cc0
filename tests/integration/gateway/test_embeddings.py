"""Embeddings and rankings at a gateway: OpenAI's Python client, HTTP, gRPC, quotas."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from mlxmesh.access.v1 import policy_pb2 as p
from mlxmesh.generation.v1 import embedding_pb2 as e
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh_shared.errors import (
    ContextTooLong,
    FeatureNotSupported,
    InvalidArgument,
    MeshError,
    ModelNotFound,
    QueueFull,
)
from mlxmesh_shared.rpc.channels import open_channel

from .conftest import Stand
from .test_quotas import MINE, left, with_quota

TIMEOUT_S = 30


class Edge:
    """A gateway's HTTP port, the services behind it, and clients of it."""

    def __init__(self, stand: Any, generation: Any, address: str, http: httpx2.AsyncClient) -> None:
        self.stand = stand
        self.generation = generation
        self.address = address
        self.http = http
        url = f"{str(http.base_url).rstrip('/')}/v1"
        self.client = AsyncOpenAI(base_url=url, api_key="any", max_retries=0)

    @property
    def requests(self) -> list[Any]:
        return self.generation.embeddings.requests


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    """Unary calls travel by no relay."""
    async with AsyncExitStack() as stack:
        yield Stand(stack, tmp_path)


@pytest.fixture
async def edge(stand: Any) -> AsyncIterator[Edge]:
    generation = await stand.generation()
    address = await stand.gateway()
    url = f"http://{await stand.http(address)}"
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S))
        made = Edge(stand, generation, address, http)
        await stack.enter_async_context(made.client)
        yield made


async def test_the_client_of_openai_gets_vectors(edge: Edge) -> None:
    answer = await edge.client.embeddings.create(
        model="small:stable", input=["one", "three"], dimensions=2, user="ada"
    )
    assert [each.embedding for each in answer.data] == [[3.0, -0.25], [5.0, -0.25]]
    assert [each.index for each in answer.data] == [0, 1]
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == (
        "small:stable",
        8,
        8,
    )
    (request,) = edge.requests
    assert (request.model, request.dimensions) == ("small:stable", 2)
    assert [each.text for each in request.inputs] == ["one", "three"]


async def test_vectors_are_floats_or_base64_of_little_endian_floats(edge: Edge) -> None:
    plain = await edge.http.post("/v1/embeddings", json={"model": "small", "input": "one"})
    assert plain.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [3.0, -0.25]}],
        "model": "small",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    body = {"model": "small", "input": "one", "encoding_format": "base64"}
    encoded = (await edge.http.post("/v1/embeddings", json=body)).json()["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(encoded)) == (3.0, -0.25)


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a", [e.EmbedInput(text="a")]),
        (["a", "b"], [e.EmbedInput(text="a"), e.EmbedInput(text="b")]),
        ([1, 2], [e.EmbedInput(tokens=e.EmbedTokens(token_ids=[1, 2]))]),
        (
            [[1, 2], [3]],
            [e.EmbedInput(tokens=e.EmbedTokens(token_ids=ids)) for ids in ([1, 2], [3])],
        ),
    ],
)
async def test_inputs_are_texts_or_token_ids(edge: Edge, given: Any, inputs: Any) -> None:
    await edge.client.embeddings.create(model="small", input=given)
    assert list(edge.requests[0].inputs) == inputs


async def test_options_have_the_names_of_the_contract(edge: Edge) -> None:
    options = {"purpose": "query", "truncate": True, "normalize": False, "service_tier": "flex"}
    await edge.client.embeddings.create(model="small", input="a", extra_body=options)
    (request,) = edge.requests
    assert request.purpose == e.EMBED_PURPOSE_QUERY
    assert request.truncate
    assert request.HasField("normalize")
    assert not request.normalize
    assert request.service_tier == g.SERVICE_TIER_FLEX


ILLEGAL_VECTORS: list[tuple[Any, str]] = [
    ({"input": "a"}, "model"),
    ({"model": "small"}, "input"),
    ({"model": "small", "input": []}, "input"),
    ({"model": "small", "input": ""}, "input.0"),
    ({"model": "small", "input": ["a", ""]}, "input.1"),
    ({"model": "small", "input": [[]]}, "input.0"),
    ({"model": "small", "input": ["a"] * 2049}, "input"),
    ({"model": "small", "input": "a", "dimensions": 0}, "dimensions"),
    ({"model": "small", "input": "a", "dimensions": "two"}, "dimensions"),
    ({"model": "small", "input": "a", "encoding_format": "hex"}, "encoding_format"),
    ({"model": "small", "input": "a", "purpose": "fun"}, "purpose"),
    ({"model": "../ etc", "input": "a"}, "model"),
]
SHAPES: list[Any] = [[1, "a"], [{"text": "a"}], 3, [[1], "a"], None]


async def test_an_illegal_request_for_vectors_names_its_field(edge: Edge) -> None:
    for body, param in ILLEGAL_VECTORS:
        response = await edge.http.post("/v1/embeddings", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param), body
    for given in SHAPES:
        response = await edge.http.post("/v1/embeddings", json={"model": "small", "input": given})
        assert response.status_code == 400
        assert response.json()["error"]["param"].startswith("input")
    assert not edge.requests


ERRORS: list[tuple[MeshError, int, str, str | None]] = [
    (
        ContextTooLong("inputs[1].text is long", field="inputs[1].text"),
        400,
        "context_too_long",
        "input.1",
    ),
    (FeatureNotSupported("model: no", field="model"), 400, "feature_not_supported", "model"),
    (ModelNotFound("there is none", field="model"), 404, "model_not_found", "model"),
    (QueueFull("full", retry_delay_s=2), 429, "queue_full", None),
]


async def test_errors_have_openais_shape(edge: Edge) -> None:
    for error, status, code, param in ERRORS:
        edge.generation.failures.append(error)
        with pytest.raises(openai.APIStatusError) as caught:
            await edge.client.embeddings.create(model="small", input="a")
        found = caught.value.status_code, caught.value.code, caught.value.param
        assert found == (status, code, param)


async def test_documents_are_ordered(edge: Edge) -> None:
    body = {"model": "small", "query": "fox", "documents": ["a", {"text": "b"}], "top_n": 2}
    response = (await edge.http.post("/v1/rerank", json=body)).json()
    assert response == {
        "object": "list",
        "model": "small",
        "results": [
            {"index": 1, "relevance_score": 0.5, "document": {"text": "b"}},
            {"index": 0, "relevance_score": pytest.approx(1 / 3), "document": {"text": "a"}},
        ],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    (request,) = edge.requests
    assert (request.query, list(request.documents), request.top_n) == ("fox", ["a", "b"], 2)


async def test_documents_need_not_come_back(edge: Edge) -> None:
    body = {
        "model": "small",
        "query": "fox",
        "documents": ["a"],
        "return_documents": False,
        "instruction": "find",
        "truncate": True,
    }
    response = (await edge.http.post("/v1/rerank", json=body)).json()
    assert response["results"] == [{"index": 0, "relevance_score": 0.5}]
    assert (edge.requests[0].instruction, edge.requests[0].truncate) == ("find", True)


ILLEGAL_RANKINGS: list[tuple[Any, str]] = [
    ({"query": ""}, "query"),
    ({"query": None}, "query"),
    ({"documents": []}, "documents"),
    ({"documents": ["a", ""]}, "documents.1"),
    ({"documents": [{"title": "a"}]}, "documents.0"),
    ({"documents": [{"text": "a", "title": "b"}]}, "documents.0"),
    ({"documents": ["a"] * 2049}, "documents"),
    ({"top_n": 0}, "top_n"),
    ({"top_n": -1}, "top_n"),
    ({"instruction": "x" * 65_537}, "instruction"),
]


async def test_an_illegal_ranking_names_its_field(edge: Edge) -> None:
    for changes, param in ILLEGAL_RANKINGS:
        body = {"model": "small", "query": "fox", "documents": ["a"], **changes}
        response = await edge.http.post("/v1/rerank", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param), changes
    assert not edge.requests


async def test_connect_speaks_json(edge: Edge) -> None:
    path = "/mlxmesh.generation.v1.EmbeddingService/Embed"
    body = {"model": "small", "inputs": [{"text": "one"}]}
    response = await edge.http.post(path, json=body)
    assert response.json()["embeddings"] == [{"values": [3, -0.25]}]
    refused = await edge.http.post(path, json={"model": "small"})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_argument")


async def test_a_call_goes_to_another_instance_when_one_is_lost(stand: Any) -> None:
    servicers = [await stand.generation(f"generation-{number}") for number in (1, 2)]
    async with open_channel(await stand.gateway()) as channel:
        stub = EmbeddingServiceStub(channel)
        request = e.EmbedRequest(model="small", inputs=[e.EmbedInput(text="one")])
        await stub.Embed(request)
        (lost,) = [each for each in servicers if each.embeddings.requests]
        await lost.server.drain(grace_s=0, settle_s=0)
        assert (await stub.Embed(request)).prompt_tokens == 3
        ranked = await stub.Rerank(e.RerankRequest(model="small", query="a", documents=["b"]))
        assert [each.index for each in ranked.results] == [0]
        with pytest.raises(InvalidArgument) as refused:
            await stub.Rerank(e.RerankRequest(model="small", query="a"))
        assert refused.value.field == "documents"


async def test_tokens_count_against_quotas(stand: Any) -> None:
    await stand.generation()
    access = await with_quota(stand, tokens_per_minute=1000)
    place = left(access, "key:k_1", p.QUOTA_LIMIT_TOKENS_PER_MINUTE, 1000)
    async with open_channel(await stand.gateway()) as channel, asyncio.timeout(TIMEOUT_S):
        stub = EmbeddingServiceStub(channel)
        request = e.EmbedRequest(model="small", inputs=[e.EmbedInput(text="x" * 15)])
        for _ in range(3):
            await stub.Embed(request, metadata=MINE)
        while access.spent[place] < 45:
            await asyncio.sleep(0.02)


async def test_models_tell_their_kind(edge: Edge) -> None:
    models = await edge.stand.models()
    version = m.ModelVersion(version=1, kind=m.MODEL_KIND_EMBEDDING, dimensions=384)
    models.models["small"] = m.Model(name="small", versions=[version], default_version=1)
    shown = (await edge.http.get("/v1/models/small")).json()
    assert (shown["kind"], shown["dimensions"]) == ("embedding", 384)
