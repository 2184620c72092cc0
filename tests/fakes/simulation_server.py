"""A back end that simulates work and records its effects, each once for a job.

`python -m tests.fakes.simulation_server --port 0 --record FILE` prints its URL. The file has one
JSON object a line: what happened (began, joined, effect, repeated, fenced, failed, cancelled), the
job, the attempt and the time by the monotonic clock. A server that is started with a file goes on
where the one before it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from tests.fakes.http_faults import Faults, applied

MAX_VALUE_BYTES = 200_000
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Work:
    """What is known of a job."""

    attempt: int
    state: str = "running"
    step: int = 0
    steps: int = 1
    message: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def move(self, state: str, message: str = "") -> None:
        self.state, self.message = state, message
        self.change()

    def change(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def status(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "attempt": self.attempt,
            "step": self.step,
            "steps": self.steps,
            "message": self.message,
            "result": self.result,
            "outputs": self.outputs,
        }


class Simulation:
    """Begins, fences and ends work."""

    def __init__(self, record: Path | None = None) -> None:
        self.jobs: dict[str, Work] = {}
        self.events: Counter[str] = Counter()
        self.sizes: dict[str, int] = {}
        """Of the outputs, by their paths."""
        if record and record.exists():
            for line in record.read_bytes().splitlines():
                # The last line of a server that was killed may be torn.
                with contextlib.suppress(ValueError):
                    self._replay(json.loads(line))
        self._file = record.open("ab", buffering=0) if record else None
        if record and self._file and not record.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")

    def close(self) -> None:
        for work in self.jobs.values():
            if work.task:
                work.task.cancel()
        if self._file:
            self._file.close()

    def effects(self) -> dict[str, int]:
        """The attempt that each effect was recorded for, by job."""
        return {
            job_id: work.result["attempt"]
            for job_id, work in self.jobs.items()
            if work.state == "done"
        }

    def begin(self, order: dict[str, Any]) -> Work | dict[str, Any]:
        """The work of a job; a status if this attempt must not have it."""
        job_id, attempt = order["job_id"], int(order["attempt"])
        work = self.jobs.get(job_id)
        if work is not None and attempt < work.attempt:
            self._record("fenced", job_id, attempt)
            return {"state": "fenced", "attempt": work.attempt}
        if work is None:
            work = self.jobs[job_id] = Work(attempt)
            self._start(work, order)
            return work
        newer = attempt > work.attempt
        work.attempt = attempt
        if work.state == "done" and newer:
            self._record("repeated", job_id, attempt)
        elif work.state != "running" and work.state != "done" and newer:
            self._start(work, order)
        elif work.state == "running" and work.task is None:
            # It began before this server was started again.
            self._start(work, order)
        elif work.state == "running" and newer:
            self._record("joined", job_id, attempt)
        return work

    def cancel(self, job_id: str, attempt: int) -> dict[str, Any]:
        work = self.jobs.get(job_id)
        if work is None:
            # Its beginning may still be on its way.
            self.jobs[job_id] = work = Work(attempt, state="cancelled")
        elif attempt < work.attempt:
            self._record("fenced", job_id, attempt)
            return {"state": "fenced", "attempt": work.attempt}
        elif work.state == "running":
            if work.task:
                work.task.cancel()
            work.move("cancelled")
        self._record("cancelled", job_id, attempt)
        return work.status()

    def _start(self, work: Work, order: dict[str, Any]) -> None:
        work.step, work.steps, work.state = 0, max(1, int(order.get("steps", 1))), "running"
        if order.get("duration_s", 0) <= 0:
            self._end(work, order)
            return
        self._record("began", order["job_id"], work.attempt)
        work.task = asyncio.create_task(self._work(work, order))

    async def _work(self, work: Work, order: dict[str, Any]) -> None:
        for step in range(1, work.steps + 1):
            await asyncio.sleep(order["duration_s"] / work.steps)
            work.step = step
            if step < work.steps:
                work.change()
        self._end(work, order)

    def _end(self, work: Work, order: dict[str, Any]) -> None:
        job_id = order["job_id"]
        chance = random.Random(f"{job_id}:{work.attempt}").random()
        if chance < order.get("failure_rate", 0):
            self._record("failed", job_id, work.attempt)
            work.move("failed", "it was asked to")
            return
        number = self.events["effect"] + 1
        work.step = work.steps
        work.result = {"attempt": work.attempt, "effect": number, "value": order.get("value", "")}
        # All numbers of a Struct are floating-point.
        self._make_outputs(work, int(order.get("outputs", 0)), int(order.get("output_bytes", 0)))
        self._record("effect", job_id, work.attempt, result=work.result, sizes=self._sizes_of(work))
        work.move("done")

    def _make_outputs(self, work: Work, count: int, size: int) -> None:
        stem = f"/v1/outputs/{work.result['effect']}"
        work.outputs = [f"{stem}-{number}.png" for number in range(count)]
        self.sizes.update(dict.fromkeys(work.outputs, size))

    def _sizes_of(self, work: Work) -> dict[str, int]:
        return {path: self.sizes[path] for path in work.outputs}

    def _record(self, event: str, job_id: str, attempt: int, **more: Any) -> None:
        """One write of a whole line: a kill leaves it or not."""
        self.events[event] += 1
        if self._file:
            at_s = time.monotonic()
            line = {"event": event, "job_id": job_id, "attempt": attempt, "at_s": at_s, **more}
            self._file.write(json.dumps(line).encode() + b"\n")

    def _replay(self, line: dict[str, Any]) -> None:
        event, attempt = line["event"], line["attempt"]
        self.events[event] += 1
        if event == "fenced":
            return
        work = self.jobs.setdefault(line["job_id"], Work(attempt))
        work.attempt = max(work.attempt, attempt)
        if event == "effect":
            work.state, work.result, work.outputs = "done", line["result"], list(line["sizes"])
            self.sizes.update(line["sizes"])
        elif event in ("failed", "cancelled") and work.state != "done":
            work.state = event


class SimulationServer:
    """Serves a simulation by HTTP and WebSocket. No router: it answers thousands a second."""

    def __init__(self, record: Path | None = None) -> None:
        self.simulation = Simulation(record)
        self.faults = Faults()
        self.url = ""
        self._sockets: set[web.WebSocketResponse] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        fault = self.faults.take(request) if self.faults.pending else None
        answer = await applied(fault, request) if fault else None
        if answer:
            return answer
        try:
            return await self._answer(request)
        except (ValueError, KeyError, TypeError) as error:
            return web.json_response({"error": f"illegal request: {error!r}"}, status=400)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v1/jobs":
            if request.method == "DELETE":
                query = request.query
                return _json(self.simulation.cancel(query["job_id"], int(query["attempt"])))
            return _json(await self._begin(json.loads(await request.read())))
        if request.path == "/v1/ws":
            return await self._talk(request)
        if request.path in self.simulation.sizes:
            size = self.simulation.sizes[request.path]
            return web.Response(body=(PNG + bytes(max(0, size - len(PNG))))[:size])
        if request.path == "/health":
            return _json({"status": "ok", "events": self.simulation.events})
        return web.json_response({"error": "no such path"}, status=404)

    async def _begin(self, order: dict[str, Any]) -> dict[str, Any]:
        work = self.simulation.begin(order)
        if isinstance(work, dict):
            return work
        if work.state == "running":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(work.changed.wait(), float(order.get("wait_s", 0)))
        return self._seen_by(work, int(order["attempt"]))

    def _seen_by(self, work: Work, attempt: int) -> dict[str, Any]:
        if attempt < work.attempt:
            return {"state": "fenced", "attempt": work.attempt}
        return work.status()

    async def _talk(self, request: web.BaseRequest) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=30)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            message = await socket.receive()
            if message.type is WSMsgType.TEXT:
                with contextlib.suppress(ConnectionError):
                    await self._tell(socket, json.loads(message.data))
        finally:
            self._sockets.discard(socket)
        await socket.close()
        return socket

    async def _tell(self, socket: web.WebSocketResponse, order: dict[str, Any]) -> None:
        work = self.simulation.begin(order)
        if isinstance(work, dict):
            await socket.send_json(work)
            return
        while not socket.closed:
            status = self._seen_by(work, int(order["attempt"]))
            changed = work.changed
            await socket.send_json(status)
            if status["state"] != "running":
                return
            await changed.wait()

    async def drop_sockets(self) -> None:
        for socket in list(self._sockets):
            if socket._req and socket._req.transport:
                socket._req.transport.abort()


def _json(content: object) -> web.Response:
    return web.Response(body=json.dumps(content).encode(), content_type="application/json")


@asynccontextmanager
async def simulation_server(
    record: Path | None = None, port: int = 0
) -> AsyncIterator[SimulationServer]:
    served = SimulationServer(record)
    runner = web.ServerRunner(web.Server(served.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    await site.start()
    host, bound = runner.addresses[0][:2]
    served.url = f"http://{host}:{bound}"
    try:
        yield served
    finally:
        served.simulation.close()
        await runner.cleanup()


async def _serve(port: int, record: Path) -> None:
    async with simulation_server(record, port) as served:
        print(served.url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.port, options.record))


if __name__ == "__main__":
    main()
