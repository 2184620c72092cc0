"""The Connect protocol over HTTP: shapes, errors, streams, limits, clients that go away."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.model.v1 import model_pb2 as m
from mlxmesh_shared.errors import ModelNotFound, TooManyRequests
from tests.fakes.connect_edge import MAX_BODY_BYTES, AnyDoor, ServedEdge, serving_connect
from tests.fakes.door import messages

GENERATION = "/mlxmesh.generation.v1.GenerationService"
MODEL = "/mlxmesh.model.v1.ModelService"
STREAM_JSON = "application/connect+json"
SSE = {"accept": "text/event-stream"}
PROMPT: dict[str, Any] = {"model": "pocket", "prompt": "a"}


@pytest.fixture
def door() -> AnyDoor:
    return AnyDoor(checks=True)


@pytest.fixture
async def edge(door: AnyDoor) -> AsyncIterator[ServedEdge]:
    async with serving_connect(door, keep_alive_s=0.1) as served:
        yield served


def enveloped(value: Any, flags: int = 0) -> bytes:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack(">BI", flags, len(content)) + content


def envelopes(body: bytes) -> list[tuple[int, Any]]:
    found: list[tuple[int, Any]] = []
    while body:
        flags, size = struct.unpack_from(">BI", body)
        found.append((flags, json.loads(body[5 : 5 + size])))
        body = body[5 + size :]
    return found


def events(text: str) -> list[dict[str, str]]:
    """The fields of each event, without comments."""
    found: list[dict[str, str]] = []
    for block in text.split("\n\n"):
        lines = [line.partition(": ") for line in block.splitlines() if line[:1] != ":"]
        if lines:
            found.append({name: value for name, _, value in lines})
    return found


async def test_json_in_and_out(door: AnyDoor, edge: ServedEdge) -> None:
    door.responses = [g.CompleteResponse(started=g.Started(seed=2**63), text="hé")]
    body = {"generation": {**PROMPT, "maxTokens": 3, "sampling": {"seed": f"{2**64 - 1}"}}}
    answer = await edge.client.post(f"{GENERATION}/Complete", json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"started": {"seed": "9223372036854775808"}, "text": "hé"}
    generation = g.GenerateRequest(model="pocket", prompt="a", max_tokens=3)
    generation.sampling.seed = 2**64 - 1
    assert door.request == g.CompleteRequest(generation=generation)


async def test_names_of_the_contract_are_taken_too(door: AnyDoor, edge: ServedEdge) -> None:
    body = {"generation": {**PROMPT, "max_tokens": 3}}
    assert (await edge.client.post(f"{GENERATION}/Complete", json=body)).status_code == 200
    expected = g.GenerateRequest(model="pocket", prompt="a", max_tokens=3)
    assert door.request == g.CompleteRequest(generation=expected)


async def test_protobuf_in_and_out(door: AnyDoor, edge: ServedEdge) -> None:
    door.responses = [m.GetModelResponse(model=m.Model(name="pocket"))]
    answer = await edge.client.post(
        f"{MODEL}/GetModel",
        content=m.GetModelRequest(model="pocket").SerializeToString(),
        headers={"content-type": "application/proto"},
    )
    assert answer.headers["content-type"] == "application/proto"
    assert m.GetModelResponse.FromString(answer.content) == door.responses[0]


async def test_a_method_that_reads_takes_get(door: AnyDoor, edge: ServedEdge) -> None:
    request = m.GetModelRequest(model="pocket")
    encoded = base64.urlsafe_b64encode(request.SerializeToString()).decode().rstrip("=")
    for query in (
        {"message": '{"model":"pocket"}'},
        {"connect": "v1", "encoding": "json", "message": '{"model":"pocket"}'},
        {"connect": "v1", "encoding": "proto", "base64": "1", "message": encoded},
    ):
        answer = await edge.client.get(f"{MODEL}/GetModel", params=query)
        assert answer.status_code == 200, answer.text
        assert door.request == request
    assert (await edge.client.get(f"{MODEL}/ListModels")).status_code == 200


@pytest.mark.parametrize(
    "query",
    ["message=%ff", "message=%7B", "message=[]", "base64=1&message=*", "encoding=xml", "a=1&" * 20,
     "message={}&compression=gzip", "message={}&compression=br"],
)  # fmt: skip
async def test_a_broken_query_is_refused(edge: ServedEdge, query: str) -> None:
    answer = await edge.client.get(f"{MODEL}/ListModels?{query}")
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_argument"


async def test_what_changes_something_takes_only_post(edge: ServedEdge) -> None:
    for path in (f"{MODEL}/DeleteModel", f"{GENERATION}/Generate", f"{GENERATION}/Complete"):
        answer = await edge.client.get(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_an_error_has_the_details_that_grpc_has(door: AnyDoor, edge: ServedEdge) -> None:
    door.error = TooManyRequests("too many", retry_delay_s=1.5)
    answer = await edge.client.post(f"{MODEL}/ListModels", json={})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "2"
    error = answer.json()
    assert (error["code"], error["message"]) == ("resource_exhausted", "too many")
    debug = {one["type"]: one["debug"] for one in error["details"]}
    assert debug["google.rpc.ErrorInfo"] == {"reason": "TOO_MANY_REQUESTS", "domain": "mlxmesh"}
    assert debug["google.rpc.RetryInfo"] == {"retryDelay": "1.500s"}


async def test_a_refused_field_is_named(edge: ServedEdge) -> None:
    body = {"generation": {**PROMPT, "sampling": {"temperature": 99}}}
    answer = await edge.client.post(f"{GENERATION}/Complete", json=body)
    assert answer.status_code == 400
    assert fields_of(answer.json()) == ["generation.sampling.temperature"]


def fields_of(error: Any) -> list[str]:
    return [
        violation["field"]
        for one in error.get("details", ())
        for violation in one["debug"].get("fieldViolations", ())
    ]


@pytest.mark.parametrize(
    ("generation", "field"),
    [
        ({"maxTokens": -1}, "generation.max_tokens"),
        ({"maxTokens": "secret"}, "generation.max_tokens"),
        ({"maxTokens": True}, "generation.max_tokens"),
        ({"model": 5}, "generation.model"),
        ({"sampling": []}, "generation.sampling"),
        ({"sampling": {"temperature": "hot"}}, "generation.sampling.temperature"),
        ({"serviceTier": "TIER_SECRET"}, "generation.service_tier"),
        ({"chat": {"messages": [{}, {"role": "secret"}]}}, "generation.chat.messages[1].role"),
        ({"tokens": {"tokenIds": [1, "secret"]}}, "generation.tokens.token_ids[1]"),
    ],
)
async def test_json_of_another_type_is_refused_without_quoting_it(
    edge: ServedEdge, generation: dict[str, Any], field: str
) -> None:
    answer = await edge.client.post(f"{GENERATION}/Complete", json={"generation": generation})
    assert answer.status_code == 400
    assert fields_of(answer.json()) == [field]
    assert "secret" not in answer.text.lower()


async def test_unknown_fields_are_told(edge: ServedEdge) -> None:
    body = {"generation": {**PROMPT, "bogus": 1, "sampling": {"hot": 2}}, "x": 1}
    answer = await edge.client.post(f"{GENERATION}/Complete", json=body)
    assert answer.status_code == 200
    told = answer.headers["mlxmesh-ignored-fields"]
    assert told == "generation.bogus, generation.sampling.hot, x"


async def test_unknown_fields_are_refused_where_the_settings_say_so(door: AnyDoor) -> None:
    async with serving_connect(door, refuse_unknown=True) as edge:
        answer = await edge.client.post(f"{MODEL}/ListModels", json={"bogus": 1})
    assert answer.status_code == 400
    assert fields_of(answer.json()) == ["bogus"]


async def test_a_stream_has_an_envelope_for_each_message(door: AnyDoor, edge: ServedEdge) -> None:
    door.responses = [*messages(g.GenerateRequest(model="pocket"))]
    answer = await edge.client.post(
        f"{GENERATION}/Generate", content=enveloped(PROMPT), headers={"content-type": STREAM_JSON}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, STREAM_JSON)
    found = envelopes(answer.content)
    assert [flags for flags, _ in found] == [0, 0, 0, 0, 2]
    assert found[1][1] == {"sequence": "2", "delta": {"text": "a ", "tokenIds": [5]}}
    assert found[-1][1] == {}


async def test_an_error_of_a_stream_is_in_its_last_envelope(
    door: AnyDoor, edge: ServedEdge
) -> None:
    door.responses = [g.GenerateResponse(sequence=1)]
    door.error = ModelNotFound("there is no such model", field="model")
    for body in (PROMPT, {"model": "pocket"}):
        answer = await edge.client.post(
            f"{GENERATION}/Generate", content=enveloped(body), headers={"content-type": STREAM_JSON}
        )
        assert answer.status_code == 200
        flags, end = envelopes(answer.content)[-1]
        assert (flags, end["error"]["code"]) == (
            2, "not_found" if body is PROMPT else "invalid_argument",
        )  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\0", enveloped(PROMPT)[:-1], enveloped(PROMPT) * 2, enveloped(PROMPT, 1),
     enveloped(PROMPT, 2), enveloped(b"{"), enveloped(b"\xff"), b"\0\xff\xff\xff\xff{}"],
)  # fmt: skip
async def test_a_broken_envelope_ends_the_stream(edge: ServedEdge, body: bytes) -> None:
    answer = await edge.client.post(
        f"{GENERATION}/Generate", content=body, headers={"content-type": STREAM_JSON}
    )
    assert answer.status_code == 200
    [(flags, end)] = envelopes(answer.content)
    assert (flags, end["error"]["code"]) == (2, "invalid_argument")


async def test_server_sent_events(door: AnyDoor, edge: ServedEdge) -> None:
    door.responses = [*messages(g.GenerateRequest(model="pocket"))]
    answer = await edge.client.post(f"{GENERATION}/Generate", json=PROMPT, headers=SSE)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert [one.get("id") for one in found] == ["1", "2", "3", "4", None]
    assert json.loads(found[2]["data"])["delta"] == {"text": "b", "tokenIds": [2]}
    assert found[-1] == {"event": "end", "data": "{}"}


async def test_an_early_error_of_events_has_a_status_and_a_late_one_an_event(
    door: AnyDoor, edge: ServedEdge
) -> None:
    door.error = ModelNotFound("there is no such model", field="model")
    early = await edge.client.post(f"{GENERATION}/Generate", json=PROMPT, headers=SSE)
    assert (early.status_code, early.json()["code"]) == (404, "not_found")
    door.responses = [g.GenerateResponse(sequence=1)]
    late = await edge.client.post(f"{GENERATION}/Generate", json=PROMPT, headers=SSE)
    assert late.status_code == 200
    assert events(late.text)[-1]["event"] == "error"
    assert json.loads(events(late.text)[-1]["data"])["code"] == "not_found"


async def test_a_reader_goes_on_after_the_last_event(door: AnyDoor, edge: ServedEdge) -> None:
    path = f"{GENERATION}/AttachGeneration"
    query = {"message": '{"requestId":"r-1"}'}
    await edge.client.get(path, params=query, headers={**SSE, "last-event-id": "7"})
    assert door.request == g.AttachGenerationRequest(request_id="r-1", after_sequence=7)
    await edge.client.get(path, params=query, headers={**SSE, "last-event-id": "7@1f0c"})
    assert door.request == g.AttachGenerationRequest(
        request_id="r-1", after_sequence=7, numbering=0x1F0C
    )
    await edge.client.get(path, params=query, headers={**SSE, "last-event-id": "log:x"})
    assert door.request == g.AttachGenerationRequest(request_id="r-1")


async def test_silence_is_filled_and_leaving_ends_the_call(door: AnyDoor, edge: ServedEdge) -> None:
    door.waits = True
    async with edge.client.stream("GET", f"{MODEL}/WatchModels", headers=SSE) as answer:
        async for line in answer.aiter_lines():
            if line.startswith(": keep-alive"):
                break
    await asyncio.wait_for(door.cancelled.wait(), 30)


@pytest.mark.parametrize("body", [{}, {"generation": PROMPT}])
async def test_leaving_ends_a_unary_call(door: AnyDoor, edge: ServedEdge, body: Any) -> None:
    door.waits = True
    path = f"{GENERATION}/Complete" if body else f"{MODEL}/ListModels"
    with pytest.raises(httpx2.TimeoutException):
        await edge.client.post(path, json=body, timeout=0.3)
    await asyncio.wait_for(door.cancelled.wait(), 30)


async def test_a_reader_that_does_not_read_holds_only_its_own_call(
    door: AnyDoor, edge: ServedEdge
) -> None:
    door.responses = [m.WatchModelsResponse(model=m.Model(name="x" * 60_000))] * 2000
    host, _, port = edge.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET {MODEL}/WatchModels HTTP/1.1\r\nhost: {host}\r\naccept: text/event-stream\r\n\r\n"
        .encode()
    )  # fmt: skip
    await writer.drain()
    async with asyncio.timeout(20):
        while True:
            written = door.written
            await asyncio.sleep(0.3)
            if door.written == written > 0:
                break
    assert door.written < 2000
    door.responses = []
    assert (await edge.client.post(f"{MODEL}/ListModels", json={})).status_code == 200
    writer.close()


async def test_a_watch_ends_as_soon_as_the_gateway_drains(door: AnyDoor, edge: ServedEdge) -> None:
    door.responses, door.waits = [m.WatchModelsResponse()], True
    async with edge.client.stream("GET", f"{MODEL}/WatchModels", headers=SSE) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        edge.start_drain()
        text = "\n".join([line async for line in lines])
    assert '"reason":"DRAINING"' in text.replace(" ", "")


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("content-type", "text/plain", 415),
        ("content-type", "application/x-www-form-urlencoded", 415),
        ("content-type", "multipart/form-data", 415),
        ("content-type", "application/connect+json", 415),
        ("content-type", "application/json; charset=utf-8", 200),
        ("content-encoding", "br", 501),
        ("connect-protocol-version", "1", 200),
        ("connect-protocol-version", "2", 400),
        ("connect-timeout-ms", "1000", 200),
        ("connect-timeout-ms", "9999999999", 200),
        ("connect-timeout-ms", "0", 400),
        ("connect-timeout-ms", "-1", 400),
        ("connect-timeout-ms", "1e3", 400),
        ("connect-timeout-ms", "9" * 11, 400),
        ("mlxmesh-timeout-ms", "0", 400),
        ("origin", "http://evil.example", 403),
    ],
)
async def test_headers_are_checked(edge: ServedEdge, name: str, value: str, status: int) -> None:
    headers = {"content-type": "application/json", name: value}
    answer = await edge.client.post(f"{MODEL}/ListModels", content=b"{}", headers=headers)
    assert answer.status_code == status


async def test_the_timeout_is_the_deadline_of_the_call(door: AnyDoor, edge: ServedEdge) -> None:
    headers = {"connect-timeout-ms": "1500"}
    await edge.client.post(f"{MODEL}/ListModels", json={}, headers=headers)
    assert door.calls[-1].remaining_s == 1.5


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'"a"', 400),
        (b'{"model": NaN}', 400),
        (b'{"model": "\\ud800"}', 400),
        (b'{"model": "\xff"}', 400),
        (b'{"model": null}', 400),  # the same as no model, which the rules refuse
        (b'{"model": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400),
        (b'{"model": ' + b"9" * 5000 + b"}", 400),
        (b'{"model": "' + b"a" * MAX_BODY_BYTES + b'"}', 429),
    ],
)
async def test_a_hostile_body_is_refused(edge: ServedEdge, content: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    answer = await edge.client.post(f"{MODEL}/GetModel", content=content, headers=headers)
    assert answer.status_code == status
    assert edge.http.held_bytes == 0


async def test_gzip_is_taken_but_not_beyond_the_limit(door: AnyDoor, edge: ServedEdge) -> None:
    async def sent(content: bytes) -> Any:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        return await edge.client.post(f"{MODEL}/GetModel", content=content, headers=headers)

    good = gzip.compress(json.dumps({"model": "pocket"}).encode())
    assert (await sent(good)).status_code == 200
    assert door.request == m.GetModelRequest(model="pocket")
    large = gzip.compress(json.dumps({"model": "pocket", "x": "a" * 200_000}).encode())
    assert (await sent(large)).status_code == 200
    for broken in (good[:-4], good + b"x", b"no gzip", good + good):
        assert (await sent(broken)).status_code == 400
    bomb = gzip.compress(b" " * 100_000_000)
    assert (await sent(bomb)).json()["code"] == "resource_exhausted"
    assert edge.http.held_bytes == 0


async def test_what_is_no_method_is_answered_clearly(edge: ServedEdge) -> None:
    for path in ("/mlxmesh.nothing.v1.Nothing/Get", f"{MODEL}/Nothing", f"{MODEL}/GetTokenizer"):
        answer = await edge.client.post(path, json={})
        assert answer.status_code == 404
        assert answer.json()["code"] == "unimplemented"
        assert "openapi.json" in answer.json()["message"]
    answer = await edge.client.post(f"{GENERATION}/Relay", json={})
    assert answer.status_code == 501
    assert "stream of requests" in answer.json()["message"]
    answer = await edge.client.post(f"{GENERATION}/Generate", json=PROMPT)
    assert answer.status_code == 415
    assert "text/event-stream" in answer.json()["message"]
