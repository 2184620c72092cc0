"""Streams without end, and what became of each:

    python -m tests.hosts.partition_client GATEWAY MODEL FOLDER STREAMS TLS_DIR

TLS_DIR has the client's certificate; "-" is without TLS.

First it runs each request once, undisturbed, into FOLDER/reference.jsonl, and prints "reference".
Then STREAMS streams run at any time until standard input ends, and for each engine a very short
one after the other with pauses between them, which find a path that works again: sessions, because
those stay at one engine. Each call is written to
FOLDER/history.jsonl when it has ended, and who served it to FOLDER/served.jsonl.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from google.protobuf.json_format import MessageToJson
from grpc import aio

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.telemetry.v1.live_pb2 import ListRequestsRequest
from mlxmesh.telemetry.v1.live_pb2_grpc import LiveServiceStub
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, open_channel
from mlxmesh_shared.tls import CertificateFiles, CertificateSource
from tests.chaos.clients import Reader, mixed_requests, no_pause
from tests.chaos.history import Call, write_history

PROBE_TOKENS, SHORT_TOKENS, LONG_TOKENS = 4, 40, 240
PROBE_PAUSE_S = 0.2
ENGINES = 2
MAX_SESSIONS = 100
REQUESTS_OF_EACH = 4
RETRY_S = 0.2
SERVED_TIMEOUT_S = 5.0


class ResumingReader(Reader):
    """Attaches when a stream that has begun is lost; one that has not begun would be repeated."""

    timeout_s = 240.0
    """Longer than any cut, and than a busy machine may need."""

    def _may_attach(self, status: MeshError | str) -> bool:
        return isinstance(status, MeshError) and status.retryable and bool(self.messages)


class Load:
    """Calls to one gateway."""

    def __init__(self, channel: aio.Channel, model: str, folder: Path) -> None:
        self._stub = GenerationServiceStub(channel)
        self._live = LiveServiceStub(channel)
        self._folder = folder
        self._probes = mixed_requests(REQUESTS_OF_EACH, max_tokens=PROBE_TOKENS, model=model)
        short = mixed_requests(REQUESTS_OF_EACH, max_tokens=SHORT_TOKENS, model=model)
        long = mixed_requests(REQUESTS_OF_EACH, max_tokens=LONG_TOKENS, model=model)
        self._short, self._long = short, long
        self._sessions: dict[str, str] = {}
        """By engine: a session that it serves."""
        self._numbers = itertools.count()
        self._turns = itertools.count()
        self._stop = asyncio.Event()

    async def reference(self) -> None:
        """Each request alone."""
        for request in (*self._probes, *self._short, *self._long):
            self._write("reference", await self._call(request))

    async def find_sessions(self) -> None:
        """Tries sessions until there is one for each engine."""
        for session_id in map(str, range(MAX_SESSIONS)):
            call = await self._call(self._probes[0], session_id)
            engine_id = (await self._served(call.call_id))[1]
            self._sessions.setdefault(engine_id, session_id)
            if len(self._sessions) == ENGINES:
                return
        raise AssertionError(f"{MAX_SESSIONS} sessions are served by {list(self._sessions)}")

    async def run(self, streams: int) -> None:
        """Runs so many streams until `stop`; every second one is long."""
        kinds = itertools.cycle((self._short, self._long))
        loads = [self._repeat(next(kinds)) for _ in range(streams)]
        sessions = self._sessions.values()
        probes = [self._repeat(self._probes, PROBE_PAUSE_S, each) for each in sessions]
        await asyncio.gather(*loads, *probes)

    def stop(self) -> None:
        """Has each stream end after its present call."""
        self._stop.set()

    async def _repeat(
        self, requests: Sequence[GenerateRequest], pause_s: float = 0.0, session_id: str = ""
    ) -> None:
        while not self._stop.is_set():
            call = await self._call(requests[next(self._turns) % len(requests)], session_id)
            self._write("history", call)
            if call.ending is not None:
                await self._note_served(call.call_id)
            await asyncio.sleep(pause_s if call.ending is not None else RETRY_S)

    async def _call(self, request: GenerateRequest, session_id: str = "") -> Call:
        own = GenerateRequest()
        own.CopyFrom(request)
        own.request_id = f"call-{next(self._numbers)}"
        own.session_id = session_id
        reader = ResumingReader([self._stub, self._stub], own, no_pause, call_id=own.request_id)
        await reader.run()
        # As of the undisturbed call: without the session.
        return replace(reader.call(), request=MessageToJson(request, indent=None))

    async def _note_served(self, call_id: str) -> None:
        generation_id, engine_id = await self._served(call_id)
        if engine_id:  # else it is one of many
            with (self._folder / "served.jsonl").open("a") as file:
                file.write(json.dumps([call_id, generation_id, engine_id]) + "\n")

    async def _served(self, call_id: str) -> tuple[str, str]:
        """Its generation and its engine; empty if the gateway does not say."""
        ask = ListRequestsRequest(request_id=call_id)
        with suppress(MeshError):
            answer = await self._live.ListRequests(ask, timeout=SERVED_TIMEOUT_S)
            for record in answer.requests[:1]:
                return record.generation_id, record.engine_id
        return "", ""

    def _write(self, name: str, call: Call) -> None:
        write_history(self._folder / f"{name}.jsonl", [call])


def certificates(tls_dir: str) -> CertificateSource | None:
    """Those of a client; None without TLS."""
    if tls_dir == "-":
        return None
    return CertificateSource(CertificateFiles.of_role(Path(tls_dir), "client"))


async def main(gateway: str, model: str, folder: str, streams: str, tls_dir: str) -> None:
    channel = open_channel(
        gateway, role="gateway", certificates=certificates(tls_dir), timeouts=LONG_TIMEOUTS
    )
    load = Load(channel, model, Path(folder))
    await load.reference()
    await load.find_sessions()
    print("reference", flush=True)
    running = asyncio.create_task(load.run(int(streams)))
    await asyncio.to_thread(sys.stdin.read)
    load.stop()
    await running
    await channel.close()
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
