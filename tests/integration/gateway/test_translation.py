"""The requests of batches: what TranslationService makes of them is what the HTTP routes do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.job.v1 import job_pb2
from mlxmesh.job.v1 import worker_pb2 as pb
from mlxmesh_gateway.openai.translation.servicer import TranslationServicer
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument, MeshError
from mlxmesh_shared.rpc.error_status import to_failure
from tests.fakes.door import STARTED, USAGE, FakeDoor
from tests.fakes.http_edges import edges_app
from tests.fakes.scripted import complete_response

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
MESSAGES = [{"role": "user", "content": "Hi"}]
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}
LOGPROB = g.TokenLogprob(token_id=5, bytes=b"a", logprob=-0.5)
SCRIPT = [
    g.GenerateResponse(prompt_logprobs=g.PromptLogprobs(tokens=[LOGPROB])),
    g.GenerateResponse(delta=g.Delta(reasoning_text="why", token_ids=[7])),
    g.GenerateResponse(delta=g.Delta(text="a", token_ids=[5], logprobs=[LOGPROB])),
    g.GenerateResponse(delta=g.Delta(index=1, text="b", token_ids=[2], logprobs=[LOGPROB])),
    g.GenerateResponse(
        delta=g.Delta(tool_calls=[g.ToolCall(id="c", name="look", arguments="{}")], token_ids=[6])
    ),
    g.GenerateResponse(finished=g.Finished(finish_reason=g.FINISH_REASON_TOOL_CALLS, usage=USAGE)),
    g.GenerateResponse(
        finished=g.Finished(
            index=1, finish_reason=g.FINISH_REASON_LENGTH, usage=USAGE, total_usage=USAGE
        )
    ),
]
SERVICER = TranslationServicer(refuse_unknown=False)


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "pocket", "messages": MESSAGES, **fields}


BODIES = [
    (CHAT, chat()),
    (CHAT, chat(n=2, logprobs=True, top_logprobs=2, user="ada", metadata={"a": "b"})),
    (CHAT, chat(tools=[TOOL], tool_choice="required", reasoning_effort="low", unknown=1)),
    (CHAT, chat(response_format={"type": "json_object"}, stop=["x"], seed=-1, stream=False)),
    (TEXT, {"model": "pocket", "prompt": "Hi", "n": 2, "logprobs": 2, "echo": True}),
    (TEXT, {"model": "pocket", "prompt": [[1, 2]], "max_tokens": 3}),
    (RESPONSES, {"model": "pocket", "input": "Hi", "store": False}),
    (
        RESPONSES,
        {
            "model": "pocket",
            "input": "Hi",
            "instructions": "Be brief",
            "store": False,
            "metadata": {"a": "b"},
            "text": {"format": {"type": "json_object"}},
            "tools": [{"type": "function", "name": "look", "parameters": {}}],
            "reasoning": {"effort": "low"},
            "top_logprobs": 2,
        },
    ),
]


def without_ids(value: Any) -> Any:
    """Without ids and times."""
    if isinstance(value, dict):
        return {
            name: without_ids(one)
            for name, one in value.items()
            if name not in ("id", "created", "created_at", "item_id")
        }
    return [without_ids(one) for one in value] if isinstance(value, list) else value


async def translate(endpoint: str, body: Any) -> pb.TranslateRequestResponse:
    text = body if isinstance(body, str) else json.dumps(body)
    request = pb.TranslateRequestRequest(endpoint=endpoint, body_json=text)
    return await SERVICER.TranslateRequest(request, None)


async def render(endpoint: str, body: Any, **result: Any) -> tuple[int, Any]:
    request = pb.RenderResponseRequest(endpoint=endpoint, body_json=json.dumps(body), **result)
    response = await SERVICER.RenderResponse(request, None)
    return response.status_code, json.loads(response.body_json)


@pytest.mark.parametrize(("endpoint", "body"), BODIES)
async def test_requests_and_results_are_those_of_the_route(endpoint: str, body: Any) -> None:
    door = FakeDoor(SCRIPT)
    over_http = TestClient(edges_app(door)).post(endpoint, json=body)
    [asked] = door.requests
    assert isinstance(asked, g.CompleteRequest)

    translated = await translate(endpoint, body)
    complete = complete_response(STARTED, SCRIPT)
    status, rendered = await render(endpoint, body, generation=complete)

    assert translated.generation == asked.generation
    told = over_http.headers.get("mlxmesh-ignored-fields", "")
    assert ", ".join(translated.ignored_fields) == told
    assert (status, without_ids(rendered)) == (200, without_ids(over_http.json()))


async def test_a_result_is_rendered_the_same_each_time() -> None:
    complete = complete_response(STARTED, SCRIPT)
    for endpoint, body in BODIES:
        complete.started.create_time.seconds = 5
        first = await render(endpoint, body, generation=complete)

        assert await render(endpoint, body, generation=complete) == first


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (CHAT, chat(temperature="hot")),
        (CHAT, chat(audio={})),
        (CHAT, {"model": "pocket"}),
        (CHAT, chat(max_tokens=1, max_completion_tokens=2)),
        (TEXT, {"model": "pocket"}),
        (RESPONSES, {"model": "pocket", "input": 5}),
        (EMBEDDINGS, {"model": "pocket"}),
    ],
)
async def test_errors_are_those_of_the_route(endpoint: str, body: Any) -> None:
    over_http = TestClient(edges_app()).post(endpoint, json=body)
    with pytest.raises(InvalidArgument) as raised:
        await translate(endpoint, body)

    rendered = await render(endpoint, body, failure=to_failure(raised.value))

    assert rendered == (over_http.status_code, over_http.json())


@pytest.mark.parametrize(
    ("endpoint", "body", "field"),
    [
        (CHAT, chat(stream=True), "stream"),
        (TEXT, {"model": "pocket", "prompt": "Hi", "stream": True}, "stream"),
        (TEXT, {"model": "pocket", "prompt": ["a", "b"]}, "prompt"),
        (RESPONSES, {"model": "pocket", "input": "Hi", "stream": True}, "stream"),
        (RESPONSES, {"model": "pocket", "input": "Hi", "background": True}, "background"),
        (RESPONSES, {"model": "pocket", "input": "Hi", "store": True}, "store"),
        (
            RESPONSES,
            {"model": "pocket", "input": "Hi", "previous_response_id": "resp_1"},
            "previous_response_id",
        ),
        (EMBEDDINGS, {"model": "pocket", "input": [1, 2]}, "input"),
    ],
)
async def test_what_a_batch_cannot_do_is_refused_by_name(
    endpoint: str, body: Any, field: str
) -> None:
    with pytest.raises(FeatureNotSupported) as raised:
        await translate(endpoint, body)

    assert raised.value.field == field


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": NaN}', '{"a": "\\ud800"}'])
async def test_a_body_that_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(MeshError) as raised:
        await translate(CHAT, text)

    assert isinstance(raised.value, InvalidArgument)


async def test_unknown_fields_are_refused_where_the_gateway_refuses_them() -> None:
    request = pb.TranslateRequestRequest(endpoint=CHAT, body_json=json.dumps(chat(other=1)))
    with pytest.raises(InvalidArgument):
        await TranslationServicer(refuse_unknown=True).TranslateRequest(request, None)


async def test_a_cancelled_generation_is_an_error_in_the_shape_of_the_route() -> None:
    finished = g.Finished(finish_reason=g.FINISH_REASON_CANCELLED)
    complete = g.CompleteResponse(started=STARTED, finished=finished)

    status, body = await render(CHAT, chat(), generation=complete)

    assert (status, body["error"]["code"]) == (400, "generation_cancelled")


async def test_embeddings_are_rendered_as_floats_or_base64() -> None:
    body = {"model": "pocket", "input": ["a", "b"], "dimensions": 2}
    work = (await translate(EMBEDDINGS, body)).embedding
    assert (work.model, list(work.inputs), work.dimensions) == ("pocket", ["a", "b"], 2)
    result = job_pb2.EmbeddingResult(
        vectors=[job_pb2.EmbeddingVector(values=[1.0, -2.0])], prompt_tokens=3
    )

    status, floats = await render(EMBEDDINGS, body, embedding=result)
    encoded = {**body, "encoding_format": "base64"}
    _, texts = await render(EMBEDDINGS, encoded, embedding=result)

    assert status == 200
    assert floats["data"] == [{"object": "embedding", "index": 0, "embedding": [1.0, -2.0]}]
    assert floats["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert texts["data"][0]["embedding"] == "AACAPwAAAMA="


async def test_any_failure_is_rendered_for_any_path() -> None:
    failure = Failure(code=8, reason="QUEUE_FULL", message="full")
    for endpoint in (CHAT, TEXT, RESPONSES, EMBEDDINGS):
        status, body = await render(endpoint, {}, failure=failure)

        assert (status, body["error"]["code"]) == (429, "queue_full")
