"""A gateway for the console alone: many engines, and requests that change all the time."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random

import uvicorn
from google.protobuf.json_format import MessageToDict, Parse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from mlxmesh.telemetry.v1 import live_pb2 as pb
from mlxmesh.telemetry.v1 import telemetry_pb2 as t
from mlxmesh.telemetry.v1.traffic_pb2 import Percentiles, Traffic
from mlxmesh_gateway.console.routes import console_routes

ENGINES = 50
REQUESTS = 1000
INTERVAL_S = 0.2
_WATCH = "/mlxmesh.telemetry.v1.LiveService/Watch"
_BATCH = 500
_RUNNING = 40


class LiveGateway:
    """Serves the built console, and a scripted LiveService.Watch as server-sent events."""

    def __init__(
        self, *, engines: int = ENGINES, requests: int = REQUESTS, interval_s: float = INTERVAL_S
    ) -> None:
        self._engines = engines
        self._requests = requests
        self._interval_s = interval_s
        self._random = Random(7)
        self._numbers = itertools.count(1)
        self.sent = 0
        """Messages of all watches."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Yields its origin."""
        routes = [
            Route("/session", _session),
            Route(_WATCH, self._watch),
            *console_routes(),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), port=0, log_level="warning", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await serving

    async def _watch(self, request: Request) -> StreamingResponse:
        asked = Parse(request.query_params["message"], pb.WatchRequest())
        return StreamingResponse(self._events(list(asked.topics)), media_type="text/event-stream")

    async def _events(self, topics: list[int]) -> AsyncIterator[bytes]:
        for topic in topics:
            for response in self._state(topic):
                yield self._event(response)
            synced = pb.TopicState(topic=pb.Topic.ValueType(topic), synced=True)
            yield self._event(pb.WatchResponse(topic=synced))
        while True:
            await asyncio.sleep(self._interval_s)
            for topic in topics:
                for response in self._changes(topic):
                    yield self._event(response)

    def _event(self, response: pb.WatchResponse) -> bytes:
        self.sent += 1
        return f"data: {json.dumps(MessageToDict(response))}\n\n".encode()

    def _state(self, topic: int) -> Iterator[pb.WatchResponse]:
        if topic == pb.TOPIC_REQUESTS:
            records = [self._record(running=False) for _ in range(self._requests)]
            for start in range(0, len(records), _BATCH):
                part = records[start : start + _BATCH]
                yield pb.WatchResponse(requests=pb.RequestsChange(requests=part))
        else:
            yield from self._changes(topic)

    def _changes(self, topic: int) -> Iterator[pb.WatchResponse]:
        if topic == pb.TOPIC_MESH:
            yield pb.WatchResponse(mesh=self._mesh())
        elif topic == pb.TOPIC_REQUESTS:
            records = [self._record(running=True) for _ in range(_RUNNING)]
            yield pb.WatchResponse(requests=pb.RequestsChange(requests=records))

    def _mesh(self) -> t.GetMeshStatusResponse:
        services = ("gateway", "generation", "generation", "model", "runtime", "runtime")
        others = [self._instance(service, at) for at, service in enumerate(services)]
        engines = [self._engine(number) for number in range(self._engines)]
        traffic = [Traffic(requests=self._random.randrange(900), time_to_first_token=_times())]
        return t.GetMeshStatusResponse(instances=[*others, *engines], traffic=traffic)

    def _instance(self, service: str, number: int) -> t.Instance:
        return t.Instance(
            service=service,
            instance_id=f"{service}-{number:08x}",
            address=f"10.0.0.{number}:50051",
            health=t.HEALTH_SERVING,
            metadata={"host": f"host-{number % 4}"},
        )

    def _engine(self, number: int) -> t.Instance:
        engine = self._instance("engine", number)
        model = f"model-{number % 7}"
        engine.metadata.update({"model": model, "version": "1", "runtime": "runtime-00000004"})
        engine.load.CopyFrom(
            t.Load(
                running=self._random.randrange(64),
                waiting=self._random.randrange(9),
                max_running=64,
                kv_bytes=self._random.randrange(2**33),
                kv_capacity_bytes=2**33,
                tokens_per_second=self._random.random() * 900,
                prefix_bytes=self._random.randrange(2**28),
                prompt_tokens=1000,
                cached_prompt_tokens=self._random.randrange(1000),
            )
        )
        return engine

    def _record(self, *, running: bool) -> pb.RequestRecord:
        number = next(self._numbers)
        record = pb.RequestRecord(
            id=f"gateway-1:{number}",
            request_id=f"gen-{number}",
            trace_id=f"{number:032x}",
            gateway_id="gateway-1",
            principal=f"user:{number % 9}",
            protocol="openai",
            method="/mlxmesh.generation.v1.GenerationService/Generate",
            model=f"model-{number % 7}",
            model_version=1,
            engine_id=f"engine-{number % self._engines:08x}",
            state=pb.REQUEST_STATE_RUNNING if running else pb.REQUEST_STATE_ENDED,
            first_output_ms=self._random.random() * 200,
            duration_ms=self._random.random() * 9000,
            prompt_tokens=self._random.randrange(4000),
            completion_tokens=self._random.randrange(900),
            finish_reason="" if running else "stop",
        )
        record.start_time.FromMilliseconds(1_700_000_000_000 + number)
        return record


def _times() -> Percentiles:
    return Percentiles(count=9, p50_ms=20, p90_ms=40, p99_ms=90)


async def _session(_request: Request) -> JSONResponse:
    return JSONResponse({"authentication": False, "role": "admin", "csrf_token": "x"})
