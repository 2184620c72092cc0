"""What gRPC costs in Python by itself: a server of small messages, and a relay of bytes.

    python -m tests.bench.bare_relay server
    python -m tests.bench.bare_relay relay HOST:PORT

Each prints its address and serves until its standard input ends. ECHO answers with its request;
STREAM is asked for "MESSAGES STEP_MS" and sends so many of 50 bytes, one each step.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from typing import Any

import grpc
from grpc import aio

from mlxmesh_shared.process.startup import call_at_end_of_stdin, child_environment
from mlxmesh_shared.rpc.channels import open_channel
from tests.bench.load import cpu_s

ECHO, STREAM = "/bare.Relay/Echo", "/bare.Relay/Stream"
MESSAGE = bytes(50)


async def echo(request: bytes, _context: Any) -> bytes:
    return request


async def stream(request: bytes, context: Any) -> None:
    messages, step_ms = map(int, request.split())
    due_s = time.monotonic()
    for _ in range(messages):
        due_s += step_ms / 1000
        await asyncio.sleep(due_s - time.monotonic())
        await context.write(MESSAGE)


class Relayed:
    """The same two, asked of somebody else."""

    def __init__(self, target: str) -> None:
        channel = open_channel(target)
        self._echo, self._stream = channel.unary_unary(ECHO), channel.unary_stream(STREAM)

    async def echo(self, request: bytes, _context: Any) -> bytes:
        return await self._echo(request)

    async def stream(self, request: bytes, context: Any) -> None:
        call = self._stream(request)
        while (message := await call.read()) is not aio.EOF:
            await context.write(message)


class BareClient:
    """Asks a relay for what `Load` asks a mesh for; use as an async context."""

    def __init__(self, address: str, pids: Mapping[str, int]) -> None:
        self._channel = open_channel(address)
        self._echo = self._channel.unary_unary(ECHO)
        self._stream = self._channel.unary_stream(STREAM)
        self._pids = pids

    async def __aenter__(self) -> BareClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def echo_s(self) -> float:
        """How long one call takes."""
        started_s = time.perf_counter()
        await self._echo(MESSAGE)
        return time.perf_counter() - started_s

    async def us_per_message(self, streams: int, messages: int, step_ms: int) -> float:
        """CPU of relay and server for each message, while so many streams are read."""
        before = cpu_s(self._pids)
        await asyncio.gather(*(self._read(f"{messages} {step_ms}") for _ in range(streams)))
        after = cpu_s(self._pids)
        spent_s = sum(after[name] - before[name] for name in self._pids)
        return 1e6 * spent_s / (streams * messages)

    async def _read(self, wanted: str) -> None:
        async for _ in self._stream(wanted.encode()):
            pass


@contextlib.contextmanager
def bare_relay() -> Generator[tuple[str, dict[str, int]]]:
    """A relay before a server: the relay's address, and the process ids of both."""
    with running("server") as (target, server), running("relay", target) as (address, relay):
        yield address, {"relay": relay, "server": server}


async def serve(unary: Any, streaming: Any) -> None:
    """Until standard input ends."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    server = aio.server()
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(streaming),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bare.Relay", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)

    call_at_end_of_stdin(end)
    await stop.wait()
    await server.stop(None)


async def main(role: str, target: str = "") -> None:
    if role == "server":
        await serve(echo, stream)
    else:
        relayed = Relayed(target)
        await serve(relayed.echo, relayed.stream)


@contextlib.contextmanager
def running(*arguments: str) -> Generator[tuple[str, int]]:
    """Address and process id of one of them, with gRPC tuned as the mesh's services have it."""
    line = [sys.executable, "-m", "tests.bench.bare_relay", *arguments]
    with subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    ) as process:
        assert process.stdout is not None, "spawned with a pipe"
        yield process.stdout.readline().strip(), process.pid


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
