"""What every HTTP edge shares: limits of bodies, errors, event streams, clients that go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import httpx2
import pytest

from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_shared.errors import QueueFull
from tests.fakes.waiting import until
from tests.integration.gateway.http_harness import MAX_BODY_BYTES, serving


async def test_a_request_is_let_in_and_answered() -> None:
    async with serving() as served:
        answer = await served.post({"text": "hé", "more": 1}, mlxmesh_caller="ada")
    assert answer.status_code == 200
    assert answer.json() == {"text": "hé", "caller": "ada"}
    assert answer.headers["mlxmesh-ignored-fields"] == "more"
    assert served.limiter.held == 0


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"", 400, "not valid JSON"),
        (b"{", 400, "not valid JSON"),
        (b"[]", 400, "a JSON object"),
        (b'{"text": NaN}', 400, "not valid JSON"),
        (b'{"text": "\\ud800"}', 400, "not valid JSON"),
        (b'{"text": "\xff"}', 400, "not valid JSON"),
        (b'{"text": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "JSON"),
        (b'{"text": ' + b"[" * 150 + b"]" * 150 + b"}", 400, "nested"),
        (b'{"text": ' + b"9" * 5000 + b"}", 400, "not valid JSON"),
        (b'{"text": 1}', 400, "text"),
        (b'{"text": "' + b"a" * MAX_BODY_BYTES + b'"}', 413, "at most"),
    ],
)
async def test_an_illegal_body_is_refused(content: bytes, status: int, says: str) -> None:
    async with serving() as served:
        answer = await served.post(content=content)
        assert answer.status_code == status
        assert says in answer.json()["message"]
        assert (await served.post({"text": "a"})).status_code == 200
    assert served.limiter.held == 0


async def test_a_body_of_unknown_length_is_limited_too() -> None:
    async def parts() -> AsyncGenerator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    async with serving() as served, httpx2.AsyncClient() as client:
        headers = {"content-type": "application/json"}
        answer = await client.post(served.url, content=parts(), headers=headers)
        assert answer.status_code == 413


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("content_type", "text/plain", 400),
        ("content_type", "application/x-www-form-urlencoded", 400),
        ("content_encoding", "gzip", 400),
        ("mlxmesh_timeout_ms", "0", 400),
        ("mlxmesh_timeout_ms", "1.5", 400),
        ("mlxmesh_timeout_ms", "9" * 30, 400),
        ("mlxmesh_timeout_ms", "1000", 200),
        ("mlxmesh_caller", "a b", 400),
        ("mlxmesh_caller", "", 400),
        ("origin", "http://evil.example", 403),
        ("origin", "null", 403),
        ("origin", "https://app.example", 200),
    ],
)
async def test_headers_are_checked(name: str, value: str, status: int) -> None:
    async with serving(origins=("https://app.example",)) as served:
        answer = await served.post({"text": "a"}, **{name: value})
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["field"] == name.replace("_", "-")


async def test_a_page_of_another_origin_may_not_even_ask_whether_it_may() -> None:
    async with serving() as served, httpx2.AsyncClient() as client:
        asks = {"origin": "http://evil.example", "access-control-request-method": "POST"}
        assert (await client.options(served.url, headers=asks)).status_code == 403


async def test_an_allowed_origin_may_ask() -> None:
    async with serving(origins=("https://app.example",)) as served, httpx2.AsyncClient() as client:
        asks = {"origin": "https://app.example", "access-control-request-method": "POST"}
        answer = await client.options(served.url, headers=asks)
        assert answer.headers["access-control-allow-origin"] in ("https://app.example", "*")
        answer = await served.post({"text": "a"}, origin="https://app.example")
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"retry-after", "x-request-id", "request-id", "mlxmesh-ignored-fields"} <= {*exposed}


async def test_errors_have_statuses_and_say_when_to_try_again() -> None:
    async def fail(exchange: Exchange) -> None:
        raise QueueFull("every queue is full", retry_delay_s=1.2)

    async with serving(fail) as served:
        answer = await served.post({})
    assert (answer.status_code, answer.json()["reason"]) == (429, "QUEUE_FULL")
    assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("2", "1200")


async def test_an_unexpected_error_tells_nothing() -> None:
    async def fail(exchange: Exchange) -> None:
        raise ValueError("a secret")

    async with serving(fail) as served:
        answer = await served.post({})
        assert (await served.post({})).status_code == 500
    assert answer.status_code == 500
    assert "secret" not in answer.text


async def test_more_requests_than_there_is_room_for_are_refused() -> None:
    release = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await release.wait()
        await exchange.respond(200, {})

    async with serving(wait) as served:
        running = [asyncio.create_task(served.post({})) for _ in range(4)]
        await until(lambda: served.limiter.held == 4)
        refused = await served.post({})
        release.set()
        answers = await asyncio.gather(*running)
    assert (refused.status_code, refused.json()["reason"]) == (429, "TOO_MANY_REQUESTS")
    assert [answer.status_code for answer in answers] == [200] * 4


async def test_a_client_that_goes_away_ends_its_request() -> None:
    ended = asyncio.Event()

    async def stream(exchange: Exchange) -> None:
        await exchange.event("1")
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with serving(stream) as served:
        async with served.streaming() as answer:
            assert await anext(answer.aiter_lines()) == "data: 1"
        await asyncio.wait_for(ended.wait(), 30)
        await until(lambda: served.limiter.held == 0)


async def test_events_have_names_and_ids_and_comments_fill_the_silence() -> None:
    async def stream(exchange: Exchange) -> None:
        exchange.keep_alive()
        await asyncio.sleep(0.6)
        await exchange.event('{"a": 1}', event="delta", event_id="7")
        await exchange.end_events()

    async with serving(stream, keep_alive_s=0.2) as served:
        answer = await served.post({})
    assert answer.headers["content-type"].startswith("text/event-stream")
    comment = ": keep-alive\n\n"
    assert answer.text.startswith(comment)
    assert answer.text.replace(comment, "") == 'event: delta\ndata: {"a": 1}\nid: 7\n\n'


async def test_a_slow_reader_makes_its_handler_wait() -> None:
    written = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal written
        for _ in range(100_000):
            await exchange.event("x" * 1000)
            written += 1

    async with (
        serving(flood) as served,
        httpx2.AsyncClient() as client,
        client.stream("POST", served.url, json={}) as answer,
    ):
        assert answer.status_code == 200
        before = -1
        while written != before:
            before = written
            await asyncio.sleep(0.3)
        assert written < 20_000
