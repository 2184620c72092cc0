"""OpenAI's Python client at a gateway, with scripted services behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import openai
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from openai import AsyncOpenAI

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh_gateway.http.server import GRACE_S
from mlxmesh_shared.errors import (
    GenerationExists,
    Internal,
    InvalidArgument,
    MeshError,
    MessagesExpired,
    ModelNotFound,
    PermissionDenied,
    QueueFull,
    Unauthenticated,
)
from tests.fakes.waiting import until

MESSAGES: Any = [{"role": "user", "content": "a b c"}]
TIMEOUT_S = 30


class Edge:
    """A gateway's HTTP port, the services behind it, and clients of it."""

    def __init__(self, stand: Any, generation: Any, url: str, http: httpx2.AsyncClient) -> None:
        self.stand = stand
        self.generation = generation
        self.url = url
        self.http = http
        self.client = AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


@pytest.fixture
async def edge(stand: Any) -> AsyncIterator[Edge]:
    generation = await stand.generation()
    url = f"http://{await stand.http(await stand.gateway())}"
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S))
        made = Edge(stand, generation, url, http)
        await stack.enter_async_context(made.client)
        yield made


async def test_a_whole_chat(edge: Edge) -> None:
    answer = await edge.client.chat.completions.create(model="pocket", messages=MESSAGES)
    assert answer.choices[0].message.content == "a b c"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id == "chatcmpl-r-1"
    assert answer._request_id == "r-1"
    assert answer.system_fingerprint == "pocket@1"


async def test_the_tier_that_serves_a_chat_is_told(edge: Edge) -> None:
    completions = edge.client.chat.completions
    answer = await completions.create(model="pocket", messages=MESSAGES, service_tier="flex")
    assert answer.service_tier == "flex"
    stream = await completions.create(
        model="pocket", messages=MESSAGES, stream=True, service_tier="auto"
    )
    assert {chunk.service_tier async for chunk in stream} == {"default"}


async def test_a_streamed_chat(edge: Edge) -> None:
    stream = await edge.client.chat.completions.create(
        model="pocket", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert stream.response.headers["x-request-id"] == "r-1"
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "a b c "
    assert [one.choices[0].finish_reason for one in chunks] == [None] * 4 + ["stop"]
    assert last.choices == []
    assert last.usage is not None


async def test_text_completions(edge: Edge) -> None:
    whole = await edge.client.completions.create(model="pocket", prompt="a b", max_tokens=2)
    assert (whole.choices[0].text, whole.id) == ("a b", "cmpl-r-1")
    stream = await edge.client.completions.create(model="pocket", prompt="a b", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "a b "


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ModelNotFound("no model"), openai.NotFoundError),
        (InvalidArgument("top_k: no", field="top_k"), openai.BadRequestError),
        (Unauthenticated("no key"), openai.AuthenticationError),
        (PermissionDenied("not you"), openai.PermissionDeniedError),
        (GenerationExists("again"), openai.ConflictError),
        (QueueFull("later", retry_delay_s=1.5), openai.RateLimitError),
        (Internal("oops"), openai.InternalServerError),
    ],
)
async def test_errors_are_the_clients_own(
    edge: Edge, error: MeshError, expected: type[openai.APIStatusError], *, stream: bool
) -> None:
    edge.generation.failures.append(error)
    with pytest.raises(expected) as caught:
        await edge.client.chat.completions.create(model="pocket", messages=MESSAGES, stream=stream)
    assert caught.value.code == error.reason.lower()
    assert caught.value.param == (error.field or None)
    if error.retry_delay_s is not None:
        assert caught.value.response.headers["retry-after"] == "2"
        assert caught.value.response.headers["retry-after-ms"] == "1500"


async def test_an_error_in_mid_stream_is_raised_too(edge: Edge) -> None:
    edge.generation.break_after = 1
    stream = await edge.client.chat.completions.create(
        model="pocket", messages=MESSAGES, stream=True
    )
    seen: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content or "")

    with pytest.raises(openai.APIError) as caught:
        await read()
    assert seen == ["", "a "]
    assert caught.value.code == "internal"
    assert "secret" not in caught.value.message


async def test_a_generation_that_another_call_cancelled_is_an_error(edge: Edge) -> None:
    edge.generation.finish_reason = g.FINISH_REASON_CANCELLED
    with pytest.raises(openai.BadRequestError) as caught:
        await edge.client.chat.completions.create(model="pocket", messages=MESSAGES)
    assert caught.value.code == "generation_cancelled"
    stream = await edge.client.chat.completions.create(
        model="pocket", messages=MESSAGES, stream=True
    )
    with pytest.raises(openai.APIError, match="cancelled"):
        _ = [chunk async for chunk in stream]


async def test_a_client_that_leaves_ends_its_generation(edge: Edge) -> None:
    edge.generation.go_on.clear()
    stream = await edge.client.chat.completions.create(
        model="pocket", messages=MESSAGES, stream=True
    )
    await anext(stream)
    await stream.close()
    await until(lambda: edge.generation.interrupted == 1)


async def test_unknown_fields_are_told_and_others_are_honoured(edge: Edge) -> None:
    raw = await edge.client.chat.completions.with_raw_response.create(
        model="pocket",
        messages=MESSAGES,
        user="me",
        extra_body={"top_k": 5, "priority": 3, "colour": "red"},
    )
    assert raw.headers["mlxmesh-ignored-fields"] == "colour"
    (request,) = edge.generation.requests
    assert (request.sampling.top_k, request.priority) == (5, 3)


async def test_fields_that_are_not_honoured_are_named(edge: Edge) -> None:
    for fields in ({"verbosity": "low"}, {"guided_json": {}}):
        (name,) = fields
        with pytest.raises(openai.BadRequestError) as caught:
            await edge.client.chat.completions.create(
                model="pocket", messages=MESSAGES, extra_body=fields
            )
        assert (caught.value.code, caught.value.param) == ("feature_not_supported", name)
    assert edge.generation.requests == []


async def test_paths_and_verbs_that_there_are_not(edge: Edge) -> None:
    with pytest.raises(openai.NotFoundError):
        await edge.client.images.generate(prompt="x")
    response = await edge.http.get("/v1/chat/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error"]["code"] == "method_not_allowed"
    response = await edge.http.get("/v2/models")
    assert response.status_code == 404
    assert response.json()["error"].startswith("there is no such path here; GET /openapi.json")
    response = await edge.http.post("/v2/health/live")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert response.json() == {"error": "this path takes only GET, HEAD"}


async def test_a_wrong_base_url_is_told(edge: Edge) -> None:
    for path, hint in (("/chat/completions", "below /v1"), ("/v1/v1/messages", "/v1 twice")):
        response = await edge.http.post(path, json={"model": "pocket"})
        assert response.status_code in (404, 405)
        assert hint in response.json()["error"]["message"]


async def test_models_and_their_aliases(edge: Edge) -> None:
    models = await edge.stand.models()
    for number, name in enumerate(("a", "b", "c"), 1):
        version = m.ModelVersion(
            version=2, context_tokens=512, create_time=Timestamp(seconds=number)
        )
        models.models[name] = m.Model(name=name, versions=[version], default_version=2)
    models.models["b"].aliases["stable"] = 2
    models.models["b"].aliases["default"] = 2
    listed = [one async for one in await edge.client.models.list()]
    assert [(one.id, one.created) for one in listed] == [
        ("a", 1),
        ("b", 2),
        ("b:stable", 2),
        ("c", 3),
    ]
    one = await edge.client.models.retrieve("c")
    assert (one.id, one.created, one.owned_by) == ("c", 3, "mlxmesh")
    assert getattr(one, "max_model_len") == 512  # noqa: B009 - no field of the client's
    with pytest.raises(openai.NotFoundError):
        await edge.client.models.retrieve("d")


def kept_messages() -> list[g.GenerateResponse]:
    started = g.Started(request_id="k", model="pocket", model_version=1)
    started.create_time.FromSeconds(7)
    return [
        g.GenerateResponse(sequence=1, started=started),
        g.GenerateResponse(sequence=2, delta=g.Delta(text="a ", token_ids=[1])),
        g.GenerateResponse(sequence=3, delta=g.Delta(text="b ", token_ids=[2])),
        g.GenerateResponse(
            sequence=4,
            finished=g.Finished(finish_reason=g.FINISH_REASON_STOP, total_usage=g.Usage()),
        ),
    ]


def stream_body() -> dict[str, object]:
    return {
        "model": "pocket",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_any_gateway_resumes_after_any_event(edge: Edge) -> None:
    edge.generation.kept["k"] = kept_messages()
    url = f"http://{await edge.stand.http(await edge.stand.gateway())}/v1/chat/completions"
    headers = {"idempotency-key": "k"}

    async def after(last: str) -> list[str]:
        response = await edge.http.post(
            url, json=stream_body(), headers={**headers, "last-event-id": last}
        )
        assert response.status_code == 200, response.text
        return response.text.split("\n\n")[:-1]

    whole = await after("0")
    ids = [event.rpartition("id: ")[2] for event in whole]
    assert ids == ["1", "2", "3", "3.1", "3.2", "4"]
    for number, event_id in enumerate(ids, 1):
        assert await after(event_id) == whole[number:]


@pytest.mark.parametrize(
    ("error", "status"),
    [(GenerationExists("another"), 409), (MessagesExpired("too late"), 400)],
)
async def test_a_stream_that_cannot_be_resumed(edge: Edge, error: MeshError, status: int) -> None:
    headers = {"idempotency-key": "k", "last-event-id": "2"}
    path = "/v1/chat/completions"
    response = await edge.http.post(path, json=stream_body(), headers=headers)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "generation_not_found"
    edge.generation.failures.append(error)
    response = await edge.http.post(path, json=stream_body(), headers=headers)
    assert response.status_code == status
    assert response.json()["error"]["code"] == error.reason.lower()


async def test_streams_finish_while_their_gateway_leaves(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    async with stand.running_gateway(drain_grace_s=30) as (address, leaving):
        url = f"http://{await stand.http(address)}/v1"
        async with AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="pocket", messages=MESSAGES, stream=True
            )
            await anext(stream)
            leaving.set()
            # A gateway that does not wait for it is gone after GRACE_S.
            await asyncio.sleep(GRACE_S + 1)
            generation.go_on.set()
            texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts) == "a b c "
