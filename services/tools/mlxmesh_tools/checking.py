"""Checks the arguments of calls against the schemas of tools, in processes that may be ended."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from mlxmesh_shared.errors import Internal, InvalidArgument
from mlxmesh_tools.domain import limits
from mlxmesh_tools.domain.listing import depth

MAX_PROCESSES = 4
_PROGRAM = Path(__file__).with_name("check_program.py")
_LIMIT_BYTES = 65_536


def parsed_arguments(text: str) -> dict[str, Any]:
    """The arguments of a call. Raises: InvalidArgument."""
    if len(text.encode()) > limits.MAX_ARGUMENTS_BYTES:
        raise _illegal("must be at most 1 MiB")
    try:
        value: Any = json.loads(text or "{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise _illegal("must be JSON") from None
    if not isinstance(value, dict):
        raise _illegal("must be a JSON object")
    if depth(value) > limits.MAX_SCHEMA_DEPTH:
        raise _illegal("is nested too deeply")
    return value  # pyright: ignore[reportUnknownVariableType]


class ArgumentChecker:
    """Satisfies CheckArguments. Processes start when they are first needed."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MAX_PROCESSES)
        self._idle: list[asyncio.subprocess.Process] = []

    async def __call__(self, schema: str, arguments: str) -> None:
        async with self._places:
            process = self._idle.pop() if self._idle else await _start()
            async with _ended_unless_done(process):
                difference = await _ask(process, schema, arguments)
            self._idle.append(process)
        if difference:
            raise _illegal(difference)

    async def close(self) -> None:
        """Ends the processes that are idle."""
        while self._idle:
            await _end(self._idle.pop())


@asynccontextmanager
async def _ended_unless_done(process: asyncio.subprocess.Process) -> AsyncGenerator[None]:
    try:
        yield
    except BaseException:
        await asyncio.shield(_end(process))
        raise


async def _ask(process: asyncio.subprocess.Process, schema: str, arguments: str) -> str:
    """Raises: InvalidArgument when it takes too long."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(ConnectionError):  # then it does not answer either
        process.stdin.write(json.dumps([schema, arguments]).encode() + b"\n")
        await process.stdin.drain()
    answer = await process.stdout.readline()
    if not answer:
        raise _illegal("cannot be checked in time: the schema of the tool is too complex")
    return str(json.loads(answer))


async def _start() -> asyncio.subprocess.Process:
    try:
        # Without closing descriptors, starting it never forks this process, which uses gRPC.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(_PROGRAM),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            close_fds=False,
            limit=_LIMIT_BYTES,
        )
    except OSError as error:
        raise Internal(f"arguments cannot be checked: {error.strerror}") from error


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _illegal(why: str) -> InvalidArgument:
    return InvalidArgument(f"arguments_json {why}", field="arguments_json")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
