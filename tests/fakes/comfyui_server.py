"""A ComfyUI on loopback that runs no model: its queue, history, files and WebSocket.

Written from server.py, execution.py and comfy_execution/progress.py of Comfy-Org/ComfyUI 0.38.1
(server.py of commit 002c3fb9). `Options` turn it into older versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import heapq
import itertools
import struct
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from tests.fakes.comfyui_workflows import OUTPUTS, error_of, needed_by, validated
from tests.fakes.http_faults import Faults

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


@dataclass
class Options:
    """How it behaves."""

    step_s: float = 0.0
    """How long each step of a KSampler takes."""
    takes_ids: bool = True
    """Whether clients choose the ids of prompts; in older versions they do not."""
    cancels_jobs: bool = True
    """Whether it has /api/jobs/{id}/cancel; older versions have not."""
    interrupts_by_id: bool = True
    """Whether /interrupt looks at prompt_id; in older versions it does not."""
    previews: bool = True
    image: bytes = PNG
    batch: int = 1
    """Images that a SaveImage saves."""
    history_delay_s: float = 0.0
    """Between the last event and the history."""


class _Interrupted(Exception): ...


class _Broken(Exception):
    def __init__(self, node_id: str, node_type: str) -> None:
        super().__init__("it was asked to break")
        self.node_id, self.node_type = node_id, node_type


@dataclass
class FakeComfyUI:
    """One server."""

    options: Options = field(default_factory=Options)
    url: str = ""
    faults: Faults = field(default_factory=Faults)
    executed: list[str] = field(default_factory=list[str])
    """The ids of the prompts that ran to their end, in their order."""
    started: list[str] = field(default_factory=list[str])
    inputs: dict[str, bytes] = field(default_factory=dict[str, bytes])
    loaded: list[str] = field(default_factory=list[str])
    """What LoadImage nodes read."""
    saved: dict[str, bytes] = field(default_factory=dict[str, bytes])
    history: dict[str, Any] = field(default_factory=dict[str, Any])
    queue: list[Any] = field(default_factory=list[Any])
    running: dict[str, Any] = field(default_factory=dict[str, Any])
    sockets: dict[str, web.WebSocketResponse] = field(
        default_factory=dict[str, web.WebSocketResponse]
    )
    interrupt: bool = False
    connections: int = 0
    _numbers: Any = field(default_factory=itertools.count)
    _added: asyncio.Event = field(default_factory=asyncio.Event)
    _client_id: str | None = None
    _last_node: str | None = None
    _messages: list[Any] = field(default_factory=list[Any])

    def restart(self) -> None:
        """Forgets its queue and history, as a new process does."""
        self.history.clear()
        self.queue.clear()
        self.running.clear()
        self.interrupt = True

    async def drop_sockets(self) -> None:
        for socket in list(self.sockets.values()):
            request = socket._req
            if request is not None and request.transport is not None:
                request.transport.abort()

    # --- HTTP

    async def on_prompt(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if "prompt" not in asked:
            return _refused("no_prompt", "No prompt provided", "No prompt provided")
        prompt_id = str(uuid.uuid4())
        if self.options.takes_ids and asked.get("prompt_id") is not None:
            prompt_id = asked["prompt_id"]
            if str(uuid.UUID(prompt_id)) != prompt_id:
                return _refused("invalid_prompt_id", "prompt_id must be a valid UUID", "")
        error, targets, node_errors = validated(
            asked["prompt"], asked.get("partial_execution_targets"), self.inputs
        )
        if error:
            return web.json_response({"error": error, "node_errors": node_errors}, status=400)
        number = next(self._numbers)
        extra = {"client_id": asked.get("client_id")}
        heapq.heappush(self.queue, (number, prompt_id, asked["prompt"], extra, targets))
        self._added.set()
        await self._status()
        return web.json_response(
            {"prompt_id": prompt_id, "number": number, "node_errors": node_errors}
        )

    async def on_queue(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"queue_running": list(self.running.values()), "queue_pending": self.queue}
        )

    async def on_change_queue(self, request: web.Request) -> web.Response:
        asked = await request.json()
        for prompt_id in asked.get("delete", ()):
            await self._delete(prompt_id)
        return web.Response()

    async def _delete(self, prompt_id: str) -> bool:
        kept = [item for item in self.queue if item[1] != prompt_id]
        deleted = len(kept) < len(self.queue)
        self.queue = kept
        heapq.heapify(self.queue)
        if deleted:
            await self._status()
        return deleted

    async def on_interrupt(self, request: web.Request) -> web.Response:
        asked = await request.json() if request.can_read_body else {}
        prompt_id = asked.get("prompt_id") if self.options.interrupts_by_id else None
        if not prompt_id or prompt_id in self.running:
            self.interrupt = True
        return web.Response()

    async def on_cancel(self, request: web.Request) -> web.Response:
        if not self.options.cancels_jobs:
            return web.Response(status=405)
        prompt_id = request.match_info["job_id"]
        runs = prompt_id in self.running
        self.interrupt = self.interrupt or runs
        cancelled = runs or await self._delete(prompt_id)
        return web.json_response({"cancelled": cancelled})

    async def on_history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        found = self.history.get(prompt_id)
        return web.json_response({prompt_id: found} if found else {})

    async def on_view(self, request: web.Request) -> web.Response:
        name = request.query.get("filename", "")
        if name.startswith("/") or ".." in name:
            return web.Response(status=400)
        key = f"{request.query.get('type', 'output')}/{request.query.get('subfolder', '')}/{name}"
        content = self.saved.get(key)
        if content is None:
            return web.Response(status=404)
        return web.Response(body=content, content_type="image/png")

    async def on_upload(self, request: web.Request) -> web.Response:
        post = await request.post()
        image, folder = post.get("image"), str(post.get("subfolder", ""))
        if not isinstance(image, web.FileField):
            return web.Response(status=400)
        name = image.filename
        if post.get("overwrite") not in ("true", "1"):
            for number in itertools.count(1):
                if f"{folder}/{name}" not in self.inputs:
                    break
                name = f"{number}-{image.filename}"
        self.inputs[f"{folder}/{name}" if folder else name] = image.file.read()
        return web.json_response({"name": name, "subfolder": folder, "type": "input"})

    async def on_stats(self, request: web.Request) -> web.Response:
        system = {"os": "linux", "comfyui_version": "0.38.1", "argv": ["main.py"]}
        devices = [{"name": "cpu", "type": "cpu", "index": None, "vram_total": 1}]
        return web.json_response({"system": system, "devices": devices})

    # --- WebSocket

    async def on_socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client = request.query.get("clientId") or uuid.uuid4().hex
        self.sockets[client] = socket
        self.connections += 1
        try:
            await self._send("status", {**self._info(), "sid": client}, client)
            if self._client_id == client and self._last_node is not None:
                await self._send("executing", {"node": self._last_node}, client)
            async for message in socket:
                if message.type is WSMsgType.ERROR:
                    break
        finally:
            # As in the real one, the end of an old socket forgets the new one of its client.
            self.sockets.pop(client, None)
        return socket

    def _info(self) -> dict[str, Any]:
        left = len(self.queue) + len(self.running)
        return {"status": {"exec_info": {"queue_remaining": left}}}

    async def _status(self) -> None:
        await self._send("status", self._info(), None)

    async def _send(self, event: str, data: dict[str, Any], client: str | None) -> None:
        wanted = list(self.sockets) if client is None else [client]
        for socket in [self.sockets[name] for name in wanted if name in self.sockets]:
            with contextlib.suppress(ConnectionError):
                await socket.send_json({"type": event, "data": data})

    async def _preview(self, client: str | None) -> None:
        socket = self.sockets.get(client or "")
        if socket is not None and self.options.previews:
            with contextlib.suppress(ConnectionError):
                await socket.send_bytes(struct.pack(">II", 1, 2) + PNG)

    async def _message(self, event: str, data: dict[str, Any], everyone: bool = False) -> None:
        self._messages.append([event, {**data, "timestamp": 1}])
        if self._client_id is not None or everyone:
            await self._send(event, data, self._client_id)

    # --- Execution

    async def work(self) -> None:
        while True:
            while not self.queue:
                self._added.clear()
                await self._added.wait()
            item = heapq.heappop(self.queue)
            self.running[item[1]] = copy.deepcopy(item)
            await self._status()
            await self._execute(*item)

    async def _execute(
        self, number: int, prompt_id: str, prompt: Any, extra: Any, targets: list[str]
    ) -> None:
        self.interrupt, self._client_id, self._messages = False, extra.get("client_id"), []
        self.started.append(prompt_id)
        outputs: dict[str, Any] = {}
        await self._message("execution_start", {"prompt_id": prompt_id})
        await self._message("execution_cached", {"nodes": [], "prompt_id": prompt_id})
        order = list(
            dict.fromkeys(node for target in targets for node in needed_by(prompt, target))
        )
        done: list[str] = []
        state = "success"
        node_id = ""
        try:
            for node_id in order:
                await self._run_node(prompt_id, node_id, prompt[node_id], done, outputs)
                done.append(node_id)
            await self._message("execution_success", {"prompt_id": prompt_id})
            self.executed.append(prompt_id)
        except _Interrupted:
            state = "error"
            data = {"prompt_id": prompt_id, "node_id": node_id, "executed": done}
            kind = {"node_type": prompt[node_id]["class_type"]}
            await self._message("execution_interrupted", {**data, **kind}, everyone=True)
        except _Broken as error:
            state = "error"
            await self._message("execution_error", _failure(prompt_id, error, done))
        self._last_node = None
        await asyncio.sleep(self.options.history_delay_s)
        item = self.running.pop(prompt_id, None)
        if item is None:
            return
        self.history[prompt_id] = {
            "prompt": item,
            "outputs": outputs,
            "status": {
                "status_str": state,
                "completed": state == "success",
                "messages": self._messages,
            },
            "meta": {},
        }
        await self._status()
        # As main.py's prompt_worker, after the history is written.
        await self._send("executing", {"node": None, "prompt_id": prompt_id}, self._client_id)

    async def _run_node(
        self, prompt_id: str, node_id: str, node: Any, done: list[str], outputs: dict[str, Any]
    ) -> None:
        self._last_node = node_id
        data = {"node": node_id, "display_node": node_id, "prompt_id": prompt_id}
        await self._send("executing", data, self._client_id)
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "Breaks":
            raise _Broken(node_id, kind)
        if kind == "LoadImage":
            self.loaded.append(inputs["image"])
        steps = int(inputs["steps"]) if kind == "KSampler" else 1
        for step in range(1, steps + 1):
            await asyncio.sleep(self.options.step_s if kind == "KSampler" else 0)
            if self.interrupt:
                raise _Interrupted
            if kind == "KSampler":
                await self._tell_step(prompt_id, node_id, step, steps, done)
        if kind in OUTPUTS:
            outputs[node_id] = self._output(prompt_id, node_id, kind, inputs)
            await self._send("executed", {**data, "output": outputs[node_id]}, self._client_id)

    async def _tell_step(
        self, prompt_id: str, node_id: str, step: int, steps: int, done: list[str]
    ) -> None:
        value = {"value": step, "max": steps, "prompt_id": prompt_id, "node": node_id}
        await self._send("progress", value, self._client_id)
        nodes = {name: {"value": 1, "max": 1, "state": "finished"} for name in done}
        nodes[node_id] = {"value": step, "max": steps, "state": "running"}
        await self._send(
            "progress_state", {"prompt_id": prompt_id, "nodes": nodes}, self._client_id
        )
        await self._preview(self._client_id)

    def _output(self, prompt_id: str, node_id: str, kind: str, inputs: Any) -> dict[str, Any]:
        if kind == "ShowText":
            return {"text": [str(inputs["text"])]}
        folder = "output" if kind == "SaveImage" else "temp"
        images = []
        for _ in range(self.options.batch):
            name = f"{inputs.get('filename_prefix', 'ComfyUI_temp')}_{len(self.saved) + 1:05}_.png"
            self.saved[f"{folder}//{name}"] = self.options.image
            images.append({"filename": name, "subfolder": "", "type": folder})
        return {"images": images}


def _failure(prompt_id: str, error: _Broken, done: list[str]) -> dict[str, Any]:
    return {
        "prompt_id": prompt_id,
        "node_id": error.node_id,
        "node_type": error.node_type,
        "executed": done,
        "exception_message": str(error),
        "exception_type": "RuntimeError",
        "traceback": ["  File secret.py, line 1\n"],
        "current_inputs": {},
        "current_outputs": [],
    }


def _refused(kind: str, message: str, details: str) -> web.Response:
    body = {"error": error_of(kind, message, details), "node_errors": {}}
    return web.json_response(body, status=400)


@asynccontextmanager
async def comfyui_server(options: Options | None = None) -> AsyncIterator[FakeComfyUI]:
    fake = FakeComfyUI(options or Options())
    app = web.Application(middlewares=[fake.faults.middleware], client_max_size=100 * 1024 * 1024)
    app.router.add_post("/prompt", fake.on_prompt)
    app.router.add_get("/queue", fake.on_queue)
    app.router.add_post("/queue", fake.on_change_queue)
    app.router.add_post("/interrupt", fake.on_interrupt)
    app.router.add_post("/api/jobs/{job_id}/cancel", fake.on_cancel)
    app.router.add_get("/history/{prompt_id}", fake.on_history)
    app.router.add_get("/view", fake.on_view)
    app.router.add_post("/upload/image", fake.on_upload)
    app.router.add_get("/system_stats", fake.on_stats)
    app.router.add_get("/ws", fake.on_socket)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    worker = asyncio.create_task(fake.work())
    try:
        yield fake
    finally:
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker
        for socket in list(fake.sockets.values()):
            await socket.close()
        await runner.cleanup()
