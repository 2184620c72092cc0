"""One streamed completion of an OpenAI-style server, at the least cost to the client.

The client shares the machine with the servers, so a heavy one would slow the peers down and
flatter the mesh. HTTP/1.0 does: the answer is a plain stream of lines up to its end.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.peers.install import PeerFailed

PATH = "/v1/completions"
Prompt = str | Sequence[int]
"""Text, or token ids where the server takes them."""


@dataclass(frozen=True)
class Chunk:
    """One event of the stream."""

    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    """As the server counted them, like `completion_tokens`; in the last chunk or after it."""
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Completion:
    """A finished stream."""

    tokens: int
    """New tokens, as the server counted them: a chunk may carry several, or none."""
    prompt_tokens: int
    chunks: int
    """Events that carried text."""
    first_at_s: float
    """When the first text was read, by time.perf_counter."""


def parse_line(line: bytes) -> Chunk | None:
    """The event on one line of the stream; None for blanks, comments and the end mark.

    Raises PeerFailed for an event that reports an error.
    """
    field, _, data = line.strip().partition(b":")
    data = data.strip()
    if field != b"data" or data == b"[DONE]":
        return None
    event: dict[str, Any] = json.loads(data)
    if event.get("error"):
        raise PeerFailed(f"the stream broke off: {str(event['error'])[:200]}")
    choice: dict[str, Any] = next(iter(event.get("choices") or []), {})
    usage: dict[str, Any] = event.get("usage") or {}
    return Chunk(
        text=choice.get("text") or "",
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
    )


class Transcript:
    """What a stream has brought so far."""

    def __init__(self) -> None:
        self._chunks = 0
        self._first_at_s: float | None = None
        self._finish_reason: str | None = None
        self._prompt_tokens: int | None = None
        self._tokens: int | None = None

    def add(self, chunk: Chunk, now_s: float) -> None:
        """Take in the next event."""
        if chunk.text:
            self._chunks += 1
            self._first_at_s = now_s if self._first_at_s is None else self._first_at_s
        self._finish_reason = chunk.finish_reason or self._finish_reason
        if chunk.completion_tokens is not None:
            self._prompt_tokens = chunk.prompt_tokens
            self._tokens = chunk.completion_tokens

    def completion(self) -> Completion:
        """The whole. Raises PeerFailed unless it ended at its length and counted its tokens."""
        if self._finish_reason != "length":
            raise PeerFailed(f"a stream ended with {self._finish_reason!r}, not at its length")
        if self._tokens is None or self._prompt_tokens is None or self._first_at_s is None:
            raise PeerFailed("a stream brought no text or no count of tokens")
        return Completion(self._tokens, self._prompt_tokens, self._chunks, self._first_at_s)


def request(
    model: str, prompt: Prompt, new_tokens: int, extra: Mapping[str, Any] | None = None
) -> bytes:
    """The greedy request, as bytes on the wire; `extra` are fields of one server's own."""
    wanted: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": new_tokens}
    options = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(wanted | options | dict(extra or {})).encode()
    lines = [
        f"POST {PATH} HTTP/1.0",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def complete(
    port: int,
    model: str,
    prompt: Prompt,
    *,
    new_tokens: int,
    extra: Mapping[str, Any] | None = None,
) -> Completion:
    """Stream one completion. Raises PeerFailed for any answer but a whole one, OSError for none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request(model, prompt, new_tokens, extra))
        await _read_head(reader)
        transcript = Transcript()
        async for line in reader:
            if (chunk := parse_line(line)) is not None:
                transcript.add(chunk, time.perf_counter())
            elif line.strip() == b"data: [DONE]":
                break
        return transcript.completion()
    finally:
        writer.close()


async def _read_head(reader: asyncio.StreamReader) -> None:
    status = await reader.readline()
    while (await reader.readline()).strip():
        pass
    if status.split()[1:2] != [b"200"]:
        said = status + await reader.read(200)
        raise PeerFailed(f"the peer refused: {said.decode(errors='replace').strip() or 'nothing'}")
