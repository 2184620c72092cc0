"""An OpenAI-compatible server on loopback: real HTTP, and faults on demand.

Written from OpenAI's API reference (chat completions, completions, embeddings, models) and the
fields that vLLM 0.11 and llama.cpp's server add, such as reasoning_content.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

MODEL = "far-model"


@dataclass
class Script:
    """What the next answers are."""

    pieces: Sequence[str] = ("Hel", "lo", " there")
    reasoning: Sequence[str] = ()
    calls: Sequence[dict[str, Any]] = ()
    """Pieces of tool calls, as deltas have them."""
    finish_reason: str = "stop"
    usage: dict[str, Any] | None = field(
        default_factory=lambda: {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    )
    logprobs: bool = True
    """Whether it gives them where they are asked for."""
    status: int = 200
    """Of answers, but for the list of models."""
    body: Any = None
    """Of an answer with another status; an error by default."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    models_status: int = 200
    hangs_before: int | None = None
    """It waits for ever before this piece."""
    cuts_before: int | None = None
    """It closes the connection before this piece."""
    error_before: int | None = None
    """It reports an error in its stream before this piece."""
    pause_s: float = 0.0
    """Before each piece."""
    goes_on: asyncio.Event | None = None
    """Until this is set, the second half of the pieces does not come."""
    raw: bytes | None = None
    """Sent instead of events."""
    streams: bool = True
    image: bytes = b"\x89PNG\r\n\x1a\n" + bytes(64)


@dataclass
class FakeUpstream:
    """What it was asked, and what it says."""

    url: str = ""
    key: str = ""
    """The key that it takes; empty for any."""
    script: Script = field(default_factory=Script)
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    paths: list[str] = field(default_factory=list[str])
    authorizations: list[str] = field(default_factory=list[str])
    open: int = 0
    """Requests that it answers at this moment."""
    most_open: int = 0
    closed_early: int = 0
    """Streams whose reader left."""
    models: Sequence[str] = (MODEL,)

    async def on_models(self, request: web.Request) -> web.Response:
        refused = self._refused(request, self.script.models_status)
        listed = [{"id": each, "object": "model", "created": 0} for each in self.models]
        return refused or web.json_response({"object": "list", "data": listed})

    async def on_model(self, request: web.Request) -> web.Response:
        wanted = request.match_info["model"]
        if wanted in self.models:
            return web.json_response({"id": wanted, "object": "model"})
        return _error(404, f"The model {wanted} does not exist", "model_not_found")

    async def on_embeddings(self, request: web.Request) -> web.Response:
        body = await self._noted(request)
        if refused := self._refused(request, self.script.status):
            return refused
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [
            {"object": "embedding", "index": place, "embedding": [float(len(text)), 1.0]}
            for place, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return web.json_response({"object": "list", "data": data, "usage": usage})

    async def on_images(self, request: web.Request) -> web.Response:
        body = await self._noted(request)
        if refused := self._refused(request, self.script.status):
            return refused
        image = base64.b64encode(self.script.image).decode()
        data = [
            {"b64_json": image, "revised_prompt": body["prompt"]} for _ in range(body.get("n", 1))
        ]
        return web.json_response({"created": 1, "data": data})

    async def on_chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def on_completion(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        body = await self._noted(request)
        if refused := self._refused(request, self.script.status):
            return refused
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            if not self.script.streams:
                return web.json_response(self._whole(body))
            return await self._stream(request, body, chat=chat)
        except (ConnectionResetError, asyncio.CancelledError):
            self.closed_early += 1
            raise
        finally:
            self.open -= 1

    async def _noted(self, request: web.Request) -> dict[str, Any]:
        body = await request.json()
        self.requests.append(body)
        self.paths.append(request.path)
        return body

    def _refused(self, request: web.Request, status: int) -> web.Response | None:
        given = request.headers.get("Authorization", "")
        self.authorizations.append(given)
        if self.key and given != f"Bearer {self.key}":
            return _error(401, f"Incorrect API key provided: {given}", "invalid_api_key")
        if status == 200:
            return None
        if self.script.body is not None:
            return web.json_response(self.script.body, status=status, headers=self.script.headers)
        return _error(status, "it does not want to", "refused", self.script.headers)

    def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self.script.pieces)}
        choice = {"index": 0, "message": message, "finish_reason": self.script.finish_reason}
        return {"id": "one", "choices": [choice], "usage": self.script.usage}

    async def _stream(
        self, request: web.Request, body: dict[str, Any], *, chat: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        script = self.script
        if script.raw is not None:
            await response.write(script.raw)
            return response
        for place, choice in enumerate(self._choices(body, chat=chat)):
            await asyncio.sleep(script.pause_s)
            if script.goes_on is not None and place == len(script.pieces) // 2:
                await script.goes_on.wait()
            if place == script.hangs_before:
                await asyncio.Event().wait()
            if place == script.cuts_before:
                assert request.transport is not None
                request.transport.close()
                return response
            if place == script.error_before:
                error = {"error": {"message": "the worker died", "type": "server_error"}}
                await response.write(_event(error))
                return response
            await response.write(_event({"id": "one", "choices": [choice]}))
        if script.usage is not None and body.get("stream_options", {}).get("include_usage"):
            await response.write(_event({"id": "one", "choices": [], "usage": script.usage}))
        await response.write(b"data: [DONE]\n\n")
        return response

    def _choices(self, body: dict[str, Any], *, chat: bool) -> list[dict[str, Any]]:
        script, choices = self.script, list[dict[str, Any]]()
        for index in range(body.get("n", 1)):
            if not chat:
                pieces = [{"index": index, "text": each} for each in script.pieces]
                choices += [*pieces, {"index": index, "text": "", "finish_reason": "stop"}]
                continue
            deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
            deltas += [{"reasoning_content": each} for each in script.reasoning]
            deltas += [{"content": each} for each in script.pieces]
            deltas += [{"tool_calls": [each]} for each in script.calls]
            wants = body.get("logprobs") and script.logprobs
            for delta in deltas:
                choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": None}
                if wants and delta.get("content"):
                    choice["logprobs"] = {"content": [_logprob(delta["content"])]}
                choices.append(choice)
            choices.append({"index": index, "delta": {}, "finish_reason": script.finish_reason})
        return choices


def _logprob(text: str) -> dict[str, Any]:
    one = {"token": text, "logprob": -0.5, "bytes": list(text.encode())}
    return {**one, "top_logprobs": [one, {"token": "x", "logprob": -1.5, "bytes": [120]}]}


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _error(
    status: int, message: str, code: str, headers: dict[str, str] | None = None
) -> web.Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "code": code}}
    return web.json_response(body, status=status, headers=headers)


@asynccontextmanager
async def running_upstream(key: str = "") -> AsyncIterator[FakeUpstream]:
    """Serves until the body ends."""
    fake = FakeUpstream(key=key)
    app = web.Application()
    app.router.add_get("/v1/models", fake.on_models)
    app.router.add_get("/v1/models/{model}", fake.on_model)
    app.router.add_post("/v1/embeddings", fake.on_embeddings)
    app.router.add_post("/v1/images/generations", fake.on_images)
    app.router.add_post("/v1/chat/completions", fake.on_chat)
    app.router.add_post("/v1/completions", fake.on_completion)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        fake.url = f"http://127.0.0.1:{port}/v1"
        yield fake
    finally:
        await runner.cleanup()
