"""The same load as `load`, over the OpenAI edge: a lean client, so that it costs little itself."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from tests.bench.bench_model import prompts
from tests.bench.load import Outcome, Run, cpu_s
from tests.bench.serving import MODEL

_CHUNK = b'"finish_reason":null'
_TOKENS = re.compile(rb'"completion_tokens":([0-9]+)')
_END = b"\r\n0\r\n\r\n"


class HttpLoad:
    """Streams from this process to one gateway, each on a new connection; whole chats share one."""

    def __init__(self, address: str, pids: Mapping[str, int]) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._pids = pids
        self._idle: Connection | None = None
        self._seeds = itertools.count(10_001)

    async def __aenter__(self) -> HttpLoad:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._idle is not None:
            self._idle.close()

    async def run(self, streams: int, *, new_tokens: int, prompt_tokens: int = 64) -> Run:
        """All streams at once, each read as fast as its events come."""
        seed = next(self._seeds)
        bodies = [_body(ids, new_tokens) for ids in prompts(streams, prompt_tokens, seed=seed)]
        before, started_s = cpu_s(self._pids), time.perf_counter()
        outcomes = await asyncio.gather(*map(self._stream, bodies))
        wall_s, after = time.perf_counter() - started_s, cpu_s(self._pids)
        return Run(wall_s, outcomes, {name: after[name] - before[name] for name in after})

    async def unary_s(self, body: Mapping[str, object]) -> float:
        """How long one chat takes that is not streamed."""
        connection = self._idle = self._idle or await self._connect()
        started_s = time.perf_counter()
        connection.send("/v1/chat/completions", json.dumps(body).encode())
        await connection.whole_response()
        return time.perf_counter() - started_s

    async def _stream(self, body: bytes) -> Outcome:
        outcome, started_s = Outcome(), time.perf_counter()
        last_s = started_s
        connection = await self._connect()
        connection.send("/v1/completions", body)
        async for data in connection.until(_END):
            now_s = time.perf_counter()
            count = data.count(_CHUNK)
            if count:
                outcome.first_s = outcome.first_s or now_s - started_s
                if outcome.messages:
                    outcome.longest_gap_s = max(outcome.longest_gap_s, now_s - last_s)
                outcome.messages += count
                last_s = now_s
            if counted := _TOKENS.search(data):
                outcome.tokens = int(counted[1])
        connection.close()
        return outcome

    async def _connect(self) -> Connection:
        return Connection(*await asyncio.open_connection(self._host, self._port))


class Connection:
    """One connection to the HTTP port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, path: str, body: bytes) -> None:
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)

    async def until(self, end: bytes) -> AsyncIterator[bytes]:
        """The data as it comes, up to that ending in `end`."""
        tail = b""
        while not tail.endswith(end):
            data = await self._reader.read(65_536)
            if not data:
                raise ConnectionError("the gateway closed the connection")
            if not tail and not data.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(data[:500].decode(errors="replace"))
            tail = (tail + data)[-len(end) - 1 :]
            yield data

    async def whole_response(self) -> bytes:
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(head.decode())
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


def _body(ids: Any, new_tokens: int) -> bytes:
    body = {
        "model": MODEL,
        "prompt": list(ids),
        "max_tokens": new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body).encode()
