"""MCP over the standard input and output of a command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from mlxmesh_shared.errors import ToolServerUnavailable
from mlxmesh_tools.domain.models import Stdio
from mlxmesh_tools.servers import keeper
from mlxmesh_tools.servers.flow import Flow
from mlxmesh_tools.servers.tail import Tail

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.client._transport import TransportStreams

MAX_GARBAGE_LINES = 100
"""Lines that are no messages; some servers log to their output by mistake."""
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")
# The keeper ends the command; only one that was killed itself takes longer.
_KEEPER_TIMEOUT_S = 2 * keeper.END_GRACE_S + 2
_WRITE_TIMEOUT_S = 0.5
_WATCH_INTERVAL_S = 0.5


@asynccontextmanager
async def stdio_transport(
    config: Stdio, tail: Tail, closed: asyncio.Event, *, max_message_bytes: int
) -> AsyncGenerator[TransportStreams]:
    """Starts the command and speaks with it; at the end nothing of it runs any more.

    tail: gets what the command writes to its standard error, and why its output was not read on.
    closed: set when the output has ended.
    """
    with tempfile.TemporaryDirectory(prefix="mlxmesh-mcp-") as own:
        process = await _start(config, config.directory or own, max_message_bytes)
        read_writer, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write, write_reader = anyio.create_memory_object_stream[SessionMessage](0)
        flow = Flow(time.monotonic, max_message_bytes=max_message_bytes)
        pipes = [
            asyncio.create_task(_read_messages(process, read_writer, flow, tail)),
            asyncio.create_task(_write_messages(process, write_reader)),
            asyncio.create_task(_read_errors(process, tail)),
            asyncio.create_task(_watch(process, closed)),
        ]
        pipes[0].add_done_callback(lambda _: closed.set())
        try:
            yield read, write
        finally:
            read.close()
            write.close()
            await _to_its_end(_close(process, pipes, tail))


async def _close(
    process: asyncio.subprocess.Process, pipes: Sequence[asyncio.Task[None]], tail: Tail
) -> None:
    await asyncio.wait(pipes[1:2], timeout=_WRITE_TIMEOUT_S)
    await _stop(process)
    await asyncio.wait(pipes[2:3], timeout=_WRITE_TIMEOUT_S)
    if not tail.last_line():
        tail.add(f"its command ended with exit code {process.returncode}".encode())
    for pipe in pipes:
        pipe.cancel()
    await asyncio.gather(*pipes, return_exceptions=True)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Waits for the work even when the caller is cancelled meanwhile, by asyncio or by anyio."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
    await task


async def _start(config: Stdio, directory: str, limit: int) -> asyncio.subprocess.Process:
    """The keeper's process: without closing descriptors or a new session, starting it never forks
    this process, which uses gRPC.
    """
    arguments = ("-I", "-S", str(Path(keeper.__file__)), directory, *config.command)
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment | dict(config.environment),
            close_fds=False,
            limit=limit,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _to_its_end(_stop_started(starting))
        raise
    except (OSError, ValueError) as error:
        raise ToolServerUnavailable(f"its command cannot be started: {error}") from error


async def _read_messages(
    process: asyncio.subprocess.Process,
    messages: MemoryObjectSendStream[SessionMessage | Exception],
    flow: Flow,
    tail: Tail,
) -> None:
    """Ends with the output, or with the first thing that is wrong with it."""
    assert process.stdout is not None
    garbage = 0
    async with messages:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            try:
                while line := await process.stdout.readline():
                    flow.spend(len(line))
                    message = _message(line)
                    if message is not None:
                        await messages.send(message)
                        continue
                    garbage += bool(line.strip())
                    if garbage > MAX_GARBAGE_LINES:
                        raise ToolServerUnavailable("its output is not MCP")
            except ToolServerUnavailable as error:
                tail.add(f"\n{error.message}\n".encode())
            except ValueError:
                tail.add(b"\nit sent a message that is too large\n")


def _message(line: bytes) -> SessionMessage | None:
    try:
        # Not validate_json(): it reads 200 levels, and one deep schema would lose the whole list.
        message = json.loads(line)
        return SessionMessage(jsonrpc_message_adapter.validate_python(message, by_name=False))
    except (ValueError, RecursionError):
        return None


async def _write_messages(
    process: asyncio.subprocess.Process, messages: MemoryObjectReceiveStream[SessionMessage]
) -> None:
    assert process.stdin is not None
    with suppress(OSError):  # the reader sees its end
        async with messages:
            async for each in messages:
                text = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(text.encode() + b"\n")
                await process.stdin.drain()


async def _read_errors(process: asyncio.subprocess.Process, tail: Tail) -> None:
    assert process.stderr is not None
    while chunk := await process.stderr.read(65_536):
        tail.add(chunk)


async def _watch(process: asyncio.subprocess.Process, closed: asyncio.Event) -> None:
    """A keeper that was killed cannot end its command, which still has the output open."""
    while process.returncode is None:  # noqa: ASYNC110
        await asyncio.sleep(_WATCH_INTERVAL_S)
    closed.set()


async def _stop_started(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    """A start that is cancelled half-way leaves pipes open in asyncio."""
    with suppress(OSError, ValueError):
        await _stop(await starting)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Closes the input, upon which the keeper ends the command."""
    assert process.stdin is not None
    process.stdin.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(_KEEPER_TIMEOUT_S):
            await _ended(process)
    # What a killed keeper left behind, and on macOS what outlived the command.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await _ended(process)
    # What escaped may still have the pipes open; only the transport, which has no public name,
    # closes this end of them.
    transport: Any = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Not wait(), which waits for the pipes too."""
    while process.returncode is None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
