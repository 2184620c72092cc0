"""Anthropic's own client at a gateway: errors, streams that break or resume, and headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import pydantic
import pytest
from anthropic import AsyncAnthropic

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh_gateway.anthropic.headers import VERSIONS
from mlxmesh_gateway.anthropic.routes import anthropic_routes
from mlxmesh_gateway.anthropic.stream.convert import StreamEvents
from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.door.entrance import CertificateAuthenticator, Entrance, NoQuotas
from mlxmesh_gateway.http.app import create_app
from mlxmesh_gateway.http.door import HttpDoor, ServesCalls
from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.http.exchange import UnknownFields
from mlxmesh_gateway.http.served import ServedRequests
from mlxmesh_gateway.http.server import HttpPort
from mlxmesh_shared.errors import (
    ConstraintInvalid,
    ContextTooLong,
    DeadlineExceeded,
    GenerationExists,
    Internal,
    MeshError,
    ModelNotFound,
    ModelNotLoaded,
    NoReplica,
    PermissionDenied,
    QueueFull,
    Unauthenticated,
)
from mlxmesh_shared.resilience.admission import CallAdmission
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter
from mlxmesh_shared.tls.identity import Role
from tests.fakes.door import FakeDoor, messages
from tests.fakes.scripted_door import ScriptedDoor
from tests.fakes.waiting import until

ASKED: dict[str, Any] = {
    "model": "pocket",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "a b c"}],
}
HEADERS = {"anthropic-version": VERSIONS[0], "content-type": "application/json"}
Event = tuple[str, str, Any]
"""The id, the name and the data of an event."""


async def http_url(stand: Any, **settings: Any) -> str:
    """Starts a gateway; returns the base of its URLs."""
    return f"http://{await stand.http(await stand.gateway(**settings))}"


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncGenerator[AsyncAnthropic]:
    async with AsyncAnthropic(
        base_url=url, api_key="any", **{"max_retries": 0, **options}
    ) as client:
        yield client


async def create(client: AsyncAnthropic) -> None:
    await client.messages.create(**ASKED)


async def stream(client: AsyncAnthropic) -> None:
    async with client.messages.stream(**ASKED) as running:
        await running.get_final_message()


async def count(client: AsyncAnthropic) -> None:
    await client.messages.count_tokens(model="pocket", messages=ASKED["messages"])


ERRORS: list[tuple[MeshError, type[anthropic.APIStatusError], str]] = [
    (ContextTooLong("no", field="chat"), anthropic.BadRequestError, "invalid_request_error"),
    (ModelNotLoaded("no"), anthropic.BadRequestError, "invalid_request_error"),
    (Unauthenticated("no"), anthropic.AuthenticationError, "authentication_error"),
    (PermissionDenied("no"), anthropic.PermissionDeniedError, "permission_error"),
    (ModelNotFound("no"), anthropic.NotFoundError, "not_found_error"),
    (GenerationExists("no"), anthropic.ConflictError, "invalid_request_error"),
    (QueueFull("no", retry_delay_s=1), anthropic.RateLimitError, "rate_limit_error"),
    (Internal("no"), anthropic.InternalServerError, "api_error"),
    (DeadlineExceeded("no"), anthropic.GatewayTimeoutError, "timeout_error"),
    (NoReplica("no"), anthropic.OverloadedError, "overloaded_error"),
]


@pytest.mark.parametrize("call", [create, stream, count])
async def test_errors_are_the_clients_own(
    stand: Any, call: Callable[[AsyncAnthropic], Awaitable[None]]
) -> None:
    generation = await stand.generation()
    async with connected(await http_url(stand)) as client:
        for error, expected, kind in ERRORS:
            generation.failures = [error] * 10
            with pytest.raises(expected) as raised:
                await call(client)
            assert raised.value.type == kind
            assert (raised.value.request_id or "").startswith("req_")
            assert json.loads(raised.value.response.text)["request_id"] == raised.value.request_id


async def test_a_request_that_is_too_large_is_its_own_error(stand: Any) -> None:
    await stand.generation()
    async with connected(await http_url(stand, max_message_bytes=100_000)) as client:
        with pytest.raises(anthropic.ContentTooLargeError) as raised:
            await client.messages.create(**{**ASKED, "system": "a" * 200_000})
    assert raised.value.status_code == 413


async def test_the_client_tries_again_when_told(stand: Any) -> None:
    generation = await stand.generation()
    async with connected(await http_url(stand), max_retries=2) as client:
        generation.failures = [QueueFull("full", retry_delay_s=0.01)] * 2
        await stream(client)
        assert generation.failures == []
        generation.failures = [GenerationExists("another request has this id")] * 3
        with pytest.raises(anthropic.ConflictError):
            await create(client)
        assert len(generation.failures) == 2


async def test_a_gateway_without_services_is_overloaded(stand: Any) -> None:
    async with connected(await http_url(stand)) as client:
        with pytest.raises(anthropic.OverloadedError):
            await create(client)


async def test_a_stream_that_breaks_ends_with_an_error_event(stand: Any) -> None:
    generation = await stand.generation()
    generation.break_after = 1
    async with (
        connected(await http_url(stand)) as client,
        client.messages.stream(**ASKED) as running,
    ):
        assert await anext(running.text_stream) == "a "
        with pytest.raises(anthropic.APIStatusError) as raised:
            await running.get_final_message()
    assert raised.value.type == "api_error"
    assert "secret" not in str(raised.value)
    body: Any = raised.value.body
    assert body["request_id"] == raised.value.request_id


async def test_a_client_that_leaves_ends_its_generation(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    async with connected(await http_url(stand)) as client:
        async with client.messages.stream(**ASKED) as running:
            assert await anext(running.text_stream) == "a "
        await until(lambda: generation.interrupted == 1, timeout_s=20)


async def test_the_synchronous_client_gets_the_same(stand: Any) -> None:
    generation = await stand.generation()
    url = await http_url(stand)

    def ask() -> str:
        with (
            anthropic.Anthropic(base_url=url, api_key="any") as client,
            client.messages.stream(**ASKED) as running,
        ):
            return running.get_final_text()

    assert await asyncio.to_thread(ask) == "a b c "
    (request,) = generation.requests
    assert (request.max_tokens, request.sampling.temperature) == (5, 1)


async def test_what_is_ignored_is_told(stand: Any) -> None:
    await stand.generation()
    async with connected(await http_url(stand)) as client:
        response = await client.messages.with_raw_response.count_tokens(
            model="pocket",
            messages=ASKED["messages"],
            extra_body={"shape": "round"},
            extra_headers={"anthropic-beta": "everything-2030-01-01"},
        )
    told = response.headers["mlxmesh-ignored-fields"]
    assert set(told.split(", ")) == {"shape", "anthropic-beta"}


async def test_the_user_is_a_label(stand: Any) -> None:
    generation = await stand.generation()
    async with connected(await http_url(stand)) as client:
        await client.messages.create(**ASKED, metadata={"user_id": "ada"})
        response = await client.messages.with_raw_response.create(
            **ASKED, metadata={"user_id": "x" * 257}
        )
    named, unnamed = generation.requests
    assert dict(named.labels) == {"user": "ada"}
    assert dict(unnamed.labels) == {}
    assert response.headers["mlxmesh-ignored-fields"] == "metadata.user_id"


async def test_unknown_fields_can_be_refused(stand: Any) -> None:
    await stand.generation()
    async with connected(await http_url(stand, unknown_fields="refuse")) as client:
        with pytest.raises(anthropic.BadRequestError, match="shape"):
            await client.messages.create(**ASKED, extra_body={"shape": "round"})


@pytest.mark.parametrize("version", ["", "2022-01-01", "2023-06-01,2026-10-21"])
@pytest.mark.parametrize("path", ["messages", "messages/count_tokens"])
async def test_a_version_is_required(stand: Any, version: str, path: str) -> None:
    await stand.generation()
    url = await http_url(stand)
    headers = {"anthropic-version": version} if version else {}
    async with httpx2.AsyncClient() as client:
        response = await client.post(f"{url}/v1/{path}", json=ASKED, headers=headers)
    assert response.status_code == 400
    assert "anthropic-version" in response.json()["error"]["message"]


async def test_models_have_the_shape_that_the_header_asks_for(stand: Any) -> None:
    models = await stand.models()
    models.models["pocket"] = m.Model(name="pocket")
    async with httpx2.AsyncClient(base_url=await http_url(stand)) as client:
        for path in ("/v1/models", "/v1/models/pocket"):
            for version in VERSIONS:
                response = await client.get(path, headers={"anthropic-version": version})
                assert ("has_more" in response.text) or response.json()["type"] == "model"
            assert "owned_by" in (await client.get(path)).text
            response = await client.get(path, headers={"anthropic-version": "1"})
            assert response.json()["error"]["type"] == "invalid_request_error"
        response = await client.get("/v1/models?limit=0", headers=HEADERS)
        assert (response.status_code, response.json()["type"]) == (400, "error")


# Events, read without the client.


async def events_of(url: str, **headers: str) -> list[Event]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = json.dumps({**ASKED, "stream": True})
    async with httpx2.AsyncClient() as client:
        response = await client.post(f"{url}/v1/messages", content=body, headers=HEADERS | named)
    assert response.status_code == 200, response.text
    return [event for part in response.text.split("\n\n")[:-1] if (event := read_event(part))]


def read_event(part: str) -> Event:
    fields = dict(line.split(": ", 1) for line in part.split("\n"))
    return fields.get("id", ""), fields["event"], json.loads(fields["data"])


@pytest.mark.parametrize("key", ["k-1", "no request id"])
async def test_a_stream_resumes_at_another_gateway_after_any_of_its_events(
    stand: Any, key: str
) -> None:
    generation = await stand.generation()
    url = await http_url(stand)
    other = await http_url(stand)
    whole = await events_of(url, idempotency_key=key)
    (request,) = generation.requests
    generation.kept[request.request_id] = [
        g.GenerateResponse(sequence=1, started=started_of(request)),
        *(
            g.GenerateResponse(sequence=number, delta=g.Delta(text=f"{word} ", token_ids=[number]))
            for number, word in enumerate("abc", 2)
        ),
        g.GenerateResponse(sequence=5, finished=g.Finished(finish_reason=g.FINISH_REASON_STOP)),
    ]
    assert len(whole) == 8
    for number, (event_id, _, _) in enumerate(whole, 1):
        if number < len(whole):
            rest = await events_of(other, idempotency_key=key, last_event_id=event_id)
            assert rest == whole[number:]


def started_of(request: g.GenerateRequest) -> g.Started:
    return g.Started(
        request_id=request.request_id,
        engine_id="generation-1",
        model=request.model,
        model_version=1,
        seed=7,
    )


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"last-event-id": "1"}, "idempotency-key"),
        ({"last-event-id": "x", "idempotency-key": "k"}, "last-event-id"),
        ({"idempotency-key": ""}, "idempotency-key"),
    ],
)
async def test_illegal_positions_are_refused(
    stand: Any, headers: dict[str, str], says: str
) -> None:
    await stand.generation()
    url = await http_url(stand)
    async with httpx2.AsyncClient() as client:
        body = {**ASKED, "stream": True}
        response = await client.post(f"{url}/v1/messages", json=body, headers=HEADERS | headers)
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]


# In front of a door that answers as a test says.


@asynccontextmanager
async def served(
    door: ServesCalls, *, keep_alive_s: float, max_body_bytes: int = 10**5
) -> AsyncGenerator[str]:
    entrance = Entrance(
        authenticator=CertificateAuthenticator(Role.ROLE_ADMIN),
        access=None,
        quotas=NoQuotas(),
        admission=CallAdmission(ConcurrencyLimiter(4)),
    )
    parts = EdgeParts(
        door=HttpDoor(entrance, door, max_body_bytes=max_body_bytes, max_held_bytes=10**7),
        served=ServedRequests(),
        unknown_fields=UnknownFields(),
        keep_alive_s=keep_alive_s,
    )
    with HttpPort("127.0.0.1:0") as port:
        async with port.serving(lambda: create_app(None, anthropic_routes(parts))):
            yield f"http://{port.address}"


class Hesitant(FakeDoor):
    """Fails, or answers, after a while."""

    def __init__(self, error: MeshError | None = None) -> None:
        super().__init__()
        self._error = error

    async def serve(self, call: PublicCall) -> bytes | None:
        await asyncio.sleep(0.5)
        if self._error is not None:
            raise self._error
        return await super().serve(call)


async def test_pings_fill_the_silence() -> None:
    async with served(Hesitant(), keep_alive_s=0.1) as url:
        events = await events_of(url)
        names = [name for _, name, _ in events]
        assert names[0] == "ping"
        stream = StreamEvents()
        expected = [
            name
            for message in messages(g.GenerateRequest(model="pocket"))
            for name, _ in stream.of(message)
        ]
        assert [name for name in names if name != "ping"] == expected
        async with connected(url) as client, client.messages.stream(**ASKED) as running:
            assert await running.get_final_text() == "a b"


async def test_an_error_after_a_ping_is_an_event() -> None:
    async with served(Hesitant(QueueFull("full")), keep_alive_s=0.1) as url:
        *pings, (_, name, data) = await events_of(url)
        assert {name for _, name, _ in pings} == {"ping"}
        assert (name, data["error"]["type"]) == ("error", "rate_limit_error")


class Cancelling(FakeDoor):
    """Another call ends every generation after its first words."""

    async def serve(self, call: PublicCall) -> bytes | None:
        request = g.GenerateRequest(model="pocket")
        *first, _ = messages(request)
        finished = g.Finished(finish_reason=g.FINISH_REASON_CANCELLED)
        for message in (*first, g.GenerateResponse(sequence=4, finished=finished)):
            await call.write(message.SerializeToString())
        return None


async def test_a_generation_that_another_call_ends_is_an_error() -> None:
    async with served(Cancelling(), keep_alive_s=10) as url:
        *_, (_, before, _), (_, name, data) = await events_of(url)
    assert (before, name) == ("content_block_delta", "error")
    assert data["error"]["type"] == "invalid_request_error"


# Tools and thinking.

TOOL: Any = {"name": "f", "input_schema": {"type": "object"}}
DELTAS = [
    g.Delta(reasoning_text="I need "),
    g.Delta(reasoning_text="f.", text="Wait."),
    g.Delta(tool_calls=[g.ToolCall(id="c-0", name="f"), g.ToolCall(arguments='{"a": ')]),
    g.Delta(tool_calls=[g.ToolCall(arguments="1}"), g.ToolCall(index=1, id="c-1", name="g")]),
]
CONTENT = [
    {"type": "thinking", "thinking": "I need f.", "signature": "mlxmesh"},
    {"type": "text", "text": "Wait."},
    {"type": "tool_use", "id": "c-0", "name": "f", "input": {"a": 1}},
    {"type": "tool_use", "id": "c-1", "name": "g", "input": {}},
]


def calling() -> ScriptedDoor:
    usage = g.Usage(prompt_tokens=9, completion_tokens=7, reasoning_tokens=2)
    end = g.Finished(finish_reason=g.FINISH_REASON_TOOL_CALLS, stop_token_id=2, usage=usage)
    return ScriptedDoor(DELTAS, end)


def content_of(message: Any) -> list[dict[str, Any]]:
    return [block.model_dump(exclude_none=True) for block in message.content]


async def test_calls_and_their_results_go_round() -> None:
    door = calling()
    asked: dict[str, Any] = {
        **ASKED,
        "tools": [TOOL],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 50},
    }
    async with served(door, keep_alive_s=10) as url, connected(url) as client:
        whole = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as running:
            streamed = await running.get_final_message()
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "done"}
            for block in whole.content
            if block.type == "tool_use"
        ]
        turns = [
            *ASKED["messages"],
            {"role": "assistant", "content": whole.content},
            {"role": "user", "content": results},
        ]
        await client.messages.create(**{**ASKED, "messages": turns})
        counted = await client.messages.count_tokens(
            model="pocket", messages=turns, tools=[TOOL], thinking={"type": "disabled"}
        )
    for message in (whole, streamed):
        assert content_of(message) == CONTENT
        assert message.stop_reason == "tool_use"
        assert message.usage.output_tokens_details is not None
        assert message.usage.output_tokens_details.thinking_tokens == 2
    assert counted.input_tokens == 3
    first, _, again, count = door.requests
    assert isinstance(first, g.CompleteRequest)
    assert first.generation.tool_choice.mode == g.TOOL_MODE_REQUIRED
    assert not first.generation.parallel_tool_calls
    assert first.generation.reasoning == g.Reasoning(enabled=True, budget_tokens=50)
    assert isinstance(again, g.CompleteRequest)
    _, assistant, *told = again.generation.chat.messages
    assert (assistant.reasoning_text, assistant.content) == ("I need f.", "Wait.")
    assert [call.id for call in assistant.tool_calls] == ["c-0", "c-1"]
    assert [(one.role, one.tool_call_id) for one in told] == [
        (g.ROLE_TOOL, "c-0"),
        (g.ROLE_TOOL, "c-1"),
    ]
    assert isinstance(count, g.CountTokensRequest)
    assert [tool.name for tool in count.tools] == ["f"]
    assert count.reasoning == g.Reasoning(enabled=False)


async def test_a_stream_with_blocks_resumes_after_any_of_its_events() -> None:
    async with served(calling(), keep_alive_s=10) as url:
        whole = await events_of(url, idempotency_key="k")
        assert [name for _, name, _ in whole].count("content_block_start") == len(CONTENT)
        for number, (event_id, _, _) in enumerate(whole[:-1], 1):
            rest = await events_of(url, idempotency_key="k", last_event_id=event_id)
            assert rest == whole[number:]


async def test_a_numbering_is_of_the_message_that_the_last_event_is_of() -> None:
    door = calling()
    async with served(door, keep_alive_s=10) as url:
        for last in ("3@1f0c", "2.1@1f0c"):
            await events_of(url, idempotency_key="k", last_event_id=last)
            attach = door.requests[-1]
            assert isinstance(attach, g.AttachGenerationRequest)
            assert (attach.numbering, attach.numbered_sequence) == (0x1F0C, 3)


async def test_the_client_parses_what_a_schema_demands() -> None:
    class Answer(pydantic.BaseModel):
        number: int

    deltas = [g.Delta(text='{"number"'), g.Delta(text=": 5}")]
    door = ScriptedDoor(deltas, g.Finished(finish_reason=g.FINISH_REASON_STOP))
    async with served(door, keep_alive_s=10) as url, connected(url) as client:
        parsed = await client.messages.parse(**ASKED, output_format=Answer)
        async with client.messages.stream(**ASKED, output_format=Answer) as running:
            streamed = await running.get_final_message()
    assert parsed.parsed_output == Answer(number=5)
    assert streamed.parsed_output == Answer(number=5)
    for request in door.requests:
        generation = request.generation if isinstance(request, g.CompleteRequest) else request
        assert isinstance(generation, g.GenerateRequest)
        assert "number" in json.loads(generation.json_schema)["properties"]


async def test_arguments_that_are_no_json_are_told() -> None:
    deltas = [g.Delta(tool_calls=[g.ToolCall(id="c", name="f", arguments='{"a": x')])]
    door = ScriptedDoor(deltas, g.Finished(finish_reason=g.FINISH_REASON_TOOL_CALLS))
    async with served(door, keep_alive_s=10) as url, connected(url) as client:
        message = await client.messages.create(**ASKED, tools=[TOOL])
        assert content_of(message)[0]["input"] == {"INVALID_JSON": '{"a": x'}
        with pytest.raises(ValueError, match="JSON"):
            async with client.messages.stream(**ASKED, tools=[TOOL]) as running:
                await running.get_final_message()


async def test_an_illegal_schema_is_named_as_the_client_wrote_it() -> None:
    field = "json_schema.properties.a"
    refusal = ConstraintInvalid(f"{field} has an unknown type", field=field)
    form: Any = {"format": {"type": "json_schema", "schema": {}}}
    async with served(Hesitant(refusal), keep_alive_s=10) as url, connected(url) as client:
        with pytest.raises(anthropic.BadRequestError, match=r"output_config.format.schema.prop"):
            await client.messages.create(**ASKED, output_config=form)


async def test_a_schema_that_is_too_long_is_named() -> None:
    tool: Any = {"name": "f", "input_schema": {"description": "a" * 262_144}}
    async with (
        served(FakeDoor(), keep_alive_s=10, max_body_bytes=10**6) as url,
        connected(url) as client,
    ):
        with pytest.raises(anthropic.BadRequestError, match=r"tools.0.input_schema"):
            await client.messages.create(**ASKED, tools=[tool])
