"""A child process of the scale test, and the lines of JSON that it exchanges with its parent."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import psutil

_LINE_BYTES = 2**24
Handler = Callable[..., Awaitable[Any]]


class Worker:
    """Starts a module of this package; an async context, which ends it by closing its input."""

    def __init__(self, module: str, **options: Any) -> None:
        """options: the keyword arguments of the module's `serve`."""
        self._module = module
        self._options = options
        self._process: Process | None = None

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"tests.scale.{self._module}", json.dumps(self._options)),
            stdin=PIPE,
            stdout=PIPE,
            # On a saturated machine gRPC reports thousands of late pings.
            env={"GRPC_VERBOSITY": "NONE", **os.environ},
            limit=_LINE_BYTES,
        )
        await self._answer()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        await self.kill()

    async def ask(self, command: str, **arguments: Any) -> Any:
        """What the worker answers. Raises: RuntimeError when it ended."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]).encode() + b"\n")
        return await self._answer()

    async def kill(self) -> None:
        """Ends it as a crash of its host does."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _answer(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"tests.scale.{self._module} ended; its error is above")
        return json.loads(line)


async def answer_commands(handlers: Mapping[str, Handler]) -> None:
    """In the child: says that it is ready, then answers commands until its input ends."""
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say(True)
    while line := await reader.readline():
        command, arguments = json.loads(line)
        _say(await handlers[command](**arguments))


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)
