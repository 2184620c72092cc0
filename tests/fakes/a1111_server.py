"""An A1111 web UI on loopback that runs no model: one task at a time, behind one lock.

Written from modules/api/api.py and modules/progress.py of AUTOMATIC1111/stable-diffusion-webui in
the line of 1.10 (with schedulers, force_task_id and refresh-embeddings).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.http_faults import Faults

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
SAMPLERS = ("Euler", "DPM++ 2M")


@dataclass
class Options:
    """How it behaves."""

    step_s: float = 0.0
    nowebui: bool = False
    """Without the web UI there is no /internal/progress."""
    auth: str = ""
    """NAME:PASSWORD of --api-auth."""
    image: bytes = PNG
    out_of_memory: bool = False


@dataclass
class FakeA1111:
    """One server."""

    options: Options = field(default_factory=Options)
    url: str = ""
    faults: Faults = field(default_factory=Faults)
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    started: list[str] = field(default_factory=list[str])
    finished: list[str] = field(default_factory=list[str])
    """Tasks that were not interrupted."""
    interrupted: list[str] = field(default_factory=list[str])
    pending: dict[str, bool] = field(default_factory=dict[str, bool])
    current: str | None = None
    step: int = 0
    steps: int = 0
    _interrupt: bool = False
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])

    async def on_generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        if refused := self._refused(body, request.path.endswith("img2img")):
            return refused
        # Its handlers are threads: they go on when their caller has gone.
        task = asyncio.create_task(self._generate(body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _refused(self, body: dict[str, Any], from_image: bool) -> web.Response | None:
        if not isinstance(body.get("prompt", ""), str):
            detail = [{"loc": ["body", "prompt"], "msg": "str type expected", "type": "type_error"}]
            return web.json_response({"detail": detail}, status=422)
        if body.get("sampler_name") not in (None, *SAMPLERS):
            return _failure(400, "HTTPException", "Sampler not found")
        if from_image:
            if not body.get("init_images"):
                return _failure(404, "HTTPException", "Init image not found")
            for image in body["init_images"]:
                try:
                    base64.b64decode(image.rpartition(",")[2], validate=True)
                except ValueError:
                    return _failure(500, "HTTPException", "Invalid encoded image")
        return None

    async def _generate(self, body: dict[str, Any]) -> web.Response:
        task_id = body.get("force_task_id") or "task(txt2img-AAAAAAAAAAAAAAA)"
        self.pending[task_id] = True
        async with self._lock:
            self.current, self._interrupt = task_id, False
            self.pending.pop(task_id, None)
            self.started.append(task_id)
            self.step, self.steps = 0, int(body.get("steps", 20))
            if self.options.out_of_memory:
                return _failure(500, "OutOfMemoryError", "", "CUDA out of memory.")
            while self.step < self.steps and not self._interrupt:
                await asyncio.sleep(self.options.step_s)
                self.step += 1
            (self.interrupted if self._interrupt else self.finished).append(task_id)
            self.current = None
        count = body.get("batch_size", 1) * body.get("n_iter", 1)
        images = [base64.b64encode(self.options.image).decode()] * count
        info = json.dumps({"prompt": body.get("prompt"), "seed": body.get("seed")})
        return web.json_response({"images": images, "parameters": body, "info": info})

    async def on_internal_progress(self, request: web.Request) -> web.Response:
        if self.options.nowebui:
            return web.json_response({"detail": "Not Found"}, status=404)
        task_id = (await request.json())["id_task"]
        active, queued = task_id == self.current, task_id in self.pending
        answer: dict[str, Any] = {
            "active": active,
            "queued": queued,
            "paused": False,
            "completed": task_id in self.finished[-16:],
            "progress": self.step / self.steps if active and self.steps else None,
            "eta": None,
            "live_preview": None,
            "id_live_preview": -1,
            "textinfo": None if active else ("Queued..." if queued else "Waiting..."),
        }
        return web.json_response(answer)

    async def on_interrupt(self, request: web.Request) -> web.Response:
        self._interrupt = True
        return web.json_response({})

    async def on_memory(self, request: web.Request) -> web.Response:
        return web.json_response({"ram": {"free": 1, "used": 1, "total": 2}, "cuda": {}})

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @property
    def authorization(self):
        @web.middleware
        async def checked(request: web.Request, handler: Any) -> web.StreamResponse:
            wanted = base64.b64encode(self.options.auth.encode()).decode()
            open_path = not self.options.auth or not request.path.startswith("/sdapi")
            if open_path or request.headers.get("Authorization") == f"Basic {wanted}":
                return await handler(request)
            return _failure(401, "HTTPException", "Incorrect username or password")

        return checked


def _failure(status: int, error: str, detail: str, errors: str = "") -> web.Response:
    body = {"error": error, "detail": detail, "body": "", "errors": errors}
    return web.json_response(body, status=status)


@asynccontextmanager
async def a1111_server(options: Options | None = None) -> AsyncIterator[FakeA1111]:
    fake = FakeA1111(options or Options())
    middlewares = [fake.authorization, fake.faults.middleware]
    app = web.Application(middlewares=middlewares, client_max_size=200 * 1024 * 1024)
    app.router.add_post("/sdapi/v1/txt2img", fake.on_generate)
    app.router.add_post("/sdapi/v1/img2img", fake.on_generate)
    app.router.add_post("/sdapi/v1/interrupt", fake.on_interrupt)
    app.router.add_get("/sdapi/v1/memory", fake.on_memory)
    app.router.add_post("/internal/progress", fake.on_internal_progress)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake
    finally:
        await fake.close()
        await runner.cleanup()
