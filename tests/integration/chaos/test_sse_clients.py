"""How readers of event streams go on when their gateway is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.chaos.history import OK
from tests.chaos.sse_clients import SseReader


def event(number: int, text: str, reason: str | None) -> str:
    choice = {"delta": {"content": text}, "finish_reason": reason}
    return f"id: {number}\ndata: {json.dumps({'choices': [choice]})}\n\n"


BEGIN, END = event(1, "Hi", None), event(2, "", "stop")


@asynccontextmanager
async def gateway(seen: list[str], *events: str, ends: bool) -> AsyncGenerator[str]:
    """Notes each request's head, sends the events, and ends the response or breaks it off."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
        head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" if events else ""
        chunks = [f"{len(each):x}\r\n{each}\r\n" for each in events]
        writer.write("".join([head, *chunks, "0\r\n\r\n" if ends else ""]).encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


@pytest.mark.parametrize(
    ("received", "rest", "resumes"), [((), (BEGIN, END), False), ((BEGIN,), (END,), True)]
)
async def test_a_stream_is_resumed_after_its_last_event_and_asked_for_again_without_one(
    received: tuple[str, ...], rest: tuple[str, ...], resumes: bool
) -> None:
    seen: list[str] = []
    async with gateway(seen, *received, ends=False) as lost, gateway(seen, *rest, ends=True) as up:
        reader = SseReader([lost, up], {"model": "m"}, call_id="one")
        await reader.run()
    assert (reader.call().status, reader.call().text) == (OK, "Hi")
    assert ["last-event-id: 1" in head for head in seen] == [False, resumes]
    assert "last-event-id: 0" not in seen[1]
    assert all("idempotency-key: one" in head for head in seen)
