"""The client of upstreams, against a server that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mlxmesh_shared.errors import (
    DeadlineExceeded,
    TooManyRequests,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mlxmesh_shared.openai_upstream.address import KeyReference
from mlxmesh_shared.openai_upstream.client import Upstream, UpstreamClient, UpstreamLimits
from tests.fakes.openai_upstream import MODEL, FakeUpstream, Script, running_upstream
from tests.fakes.ports import free_port

KEY = "sk-very-secret"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def fake() -> AsyncIterator[FakeUpstream]:
    async with running_upstream(KEY) as running:
        yield running


@pytest.fixture
async def client(
    fake: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[UpstreamClient]:
    monkeypatch.setenv("FAR_KEY", KEY)
    limits = UpstreamLimits(
        connect_timeout_s=30, idle_timeout_s=2, max_stream_bytes=8192, max_body_bytes=8192
    )
    upstream = Upstream(name="far@1", base_url=fake.url, key=KeyReference("env:FAR_KEY"))
    client = UpstreamClient(upstream, limits)
    yield client
    await client.close()


async def collected(client: UpstreamClient, timeout_s: float | None = None) -> list[Any]:
    async with client.chat(CHAT, timeout_s) as chunks:
        return [each async for each in chunks]


async def test_a_chat_streams_with_its_key(client: UpstreamClient, fake: FakeUpstream) -> None:
    chunks = await collected(client)
    texts = [choice["delta"].get("content", "") for each in chunks for choice in each["choices"]]
    assert "".join(texts) == "Hello there"
    assert fake.requests == [{**CHAT, "stream": True}]
    assert fake.authorizations == [f"Bearer {KEY}"]
    assert fake.paths == ["/v1/chat/completions"]


async def test_a_completion_streams(client: UpstreamClient) -> None:
    async with client.completion({"model": MODEL, "prompt": "hi"}) as chunks:
        texts = [each["choices"][0]["text"] async for each in chunks]
    assert "".join(texts) == "Hello there"


async def test_one_that_does_not_stream_gives_one_chunk(
    client: UpstreamClient, fake: FakeUpstream
) -> None:
    fake.script = Script(streams=False)
    [chunk] = await collected(client)
    assert chunk["choices"][0]["message"]["content"] == "Hello there"


async def test_embeddings_and_models(client: UpstreamClient) -> None:
    answered = await client.embeddings({"model": MODEL, "input": ["a", "bcd"]})
    assert [each["embedding"] for each in answered["data"]] == [[1.0, 1.0], [3.0, 1.0]]
    assert await client.models() == [MODEL]


async def test_health_is_an_answer_a_key_and_the_model(
    client: UpstreamClient, fake: FakeUpstream
) -> None:
    await client.check(MODEL)
    with pytest.raises(UpstreamRefused, match="other does not exist"):
        await client.check("other")
    fake.key = "another"
    with pytest.raises(UpstreamRefused, match="key"):
        await client.check(MODEL)
    fake.key, fake.script = KEY, Script(models_status=503)
    with pytest.raises(UpstreamUnavailable):
        await client.check(MODEL)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda: Script(status=500),
        lambda: Script(cuts_before=2),
        lambda: Script(error_before=2),
        lambda: Script(hangs_before=2),
        lambda: Script(raw=b"data: not JSON\n\n"),
        lambda: Script(raw=b'data: {"choices": []}\n\n'),
        lambda: Script(raw=b"data: " + b"x" * 9000),
        lambda: Script(pieces=["x" * 5000, "y" * 5000]),
        lambda: Script(pieces=["x" * 9000], streams=False),
    ],
    ids=["500", "cut", "error", "hang", "no JSON", "no end", "endless", "large", "large body"],
)
async def test_a_broken_answer_is_unavailable(
    client: UpstreamClient, fake: FakeUpstream, break_it: Callable[[], Script]
) -> None:
    fake.script = break_it()
    with pytest.raises(UpstreamUnavailable) as caught:
        await collected(client)
    assert KEY not in caught.value.message


async def test_one_that_is_not_there_is_unavailable() -> None:
    client = UpstreamClient(Upstream(name="x", base_url=f"http://127.0.0.1:{free_port()}/v1"))
    with pytest.raises(UpstreamUnavailable):
        await collected(client)
    await client.close()


async def test_a_full_one_says_when_to_come_back(
    client: UpstreamClient, fake: FakeUpstream
) -> None:
    fake.script = Script(status=429, headers={"Retry-After": "7"})
    with pytest.raises(TooManyRequests) as caught:
        await collected(client)
    assert caught.value.retry_delay_s == 7.0


async def test_a_redirect_is_not_followed(client: UpstreamClient, fake: FakeUpstream) -> None:
    fake.script = Script(status=307, headers={"Location": f"{fake.url}/completions"})
    with pytest.raises(UpstreamRefused, match="redirects"):
        await collected(client)
    assert fake.paths == ["/v1/chat/completions"]


async def test_a_refusal_that_quotes_the_key_does_not_pass_it_on(
    client: UpstreamClient, fake: FakeUpstream
) -> None:
    fake.script = Script(status=500, body={"error": {"message": f"bad {KEY}"}})
    with pytest.raises(UpstreamUnavailable) as caught:
        await collected(client)
    assert KEY not in caught.value.message


async def test_a_deadline_ends_a_call(client: UpstreamClient, fake: FakeUpstream) -> None:
    fake.script = Script(pause_s=0.1)
    with pytest.raises(DeadlineExceeded):
        await collected(client, timeout_s=0.15)


async def test_leaving_a_stream_closes_its_connection(
    client: UpstreamClient, fake: FakeUpstream
) -> None:
    fake.script = Script(pieces=["x"] * 50, pause_s=0.02)
    async with client.chat(CHAT) as chunks:
        async for _ in chunks:
            break
    async with asyncio.timeout(30):
        while not fake.closed_early or fake.open:
            await asyncio.sleep(0.01)
