"""One engine process: spawned, heard until it announces its address, ended.

The process tells on stdout, one JSON object a line, how its start goes, then its address or why it
cannot serve, and that it drains when another than this runtime asked it to leave. Its stdin is a
pipe that stays open: when this process dies, the engine sees it close and exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from mlxmesh_runtime.spare_engine import SpareEngine
from mlxmesh_shared.host.log_file import LogFile
from mlxmesh_shared.process.forked import ForkedProcess
from mlxmesh_shared.process.startup import child_environment

READ_REST_S = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StartFailure:
    """Why an engine could not start, in its own words; `permanent` when it never will."""

    message: str
    permanent: bool


def describe_exit(returncode: int) -> str:
    """How a process ended, in words, from its return code (negative: a signal)."""
    if returncode >= 0:
        return f"ended with exit code {returncode} without being asked to"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    if name == "SIGKILL":
        return "was killed by SIGKILL, not by its runtime; is the host out of memory?"
    return f"was ended by {name}"


class EngineProcess:
    """Owns one process from spawn to end; make it with `spawn`."""

    def __init__(self, process: Process | ForkedProcess, log: LogFile) -> None:
        self._process = process
        self._log = log
        self._address = asyncio.get_running_loop().create_future()
        self._draining = asyncio.Event()
        self._start_failure: StartFailure | None = None
        self._reader = asyncio.create_task(self._read_stdout(), name=f"stdout-{process.pid}")
        self._told_to_end = False

    @classmethod
    async def spawn(cls, command: Sequence[str], log: LogFile, spare: SpareEngine) -> EngineProcess:
        """Start the process, its stderr appended to the log. Raises: OSError."""
        spared = spare.take(command, log.path)
        return cls(spared or await cls._start(command, log), log)

    @staticmethod
    async def _start(command: Sequence[str], log: LogFile) -> Process:
        stderr = log.open_for_append()
        try:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=stderr,
                # Ctrl-C in a terminal must reach the runtime alone, which then drains its engines.
                start_new_session=True,
                env=child_environment(),
            )
        finally:
            os.close(stderr)

    @property
    def pid(self) -> int:
        """The process id; stays after its end."""
        return self._process.pid

    async def announced(self) -> str:
        """The host:port at which the engine serves; never returns if it tells none."""
        return await asyncio.shield(self._address)

    async def drains(self) -> None:
        """Wait until the process says that it is leaving."""
        await self._draining.wait()

    async def ended(self) -> str:
        """Wait until the process is gone, and say how it ended."""
        return describe_exit(await self._process.wait())

    async def start_failure(self) -> StartFailure | None:
        """Why the process, which has ended, could not start; None when it did not say."""
        await asyncio.wait({self._reader}, timeout=READ_REST_S)
        return self._start_failure

    async def stop(self, grace_s: float) -> None:
        """Drain it and return when it is gone; kill it after the grace. Safe to call again."""
        if not self._told_to_end:
            self._told_to_end = True
            self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
        # A child of the engine may hold the pipe open for ever.
        await asyncio.wait({self._reader}, timeout=READ_REST_S)
        self._reader.cancel()

    async def kill(self) -> None:
        """End it at once and return when it is gone."""
        self._send(signal.SIGKILL)
        await self._process.wait()

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _read_stdout(self) -> None:
        """Take in every line until the end, so that the process never blocks on a full pipe."""
        stdout = await _stdout_of(self._process)
        while True:
            try:
                line = await stdout.readline()
            except ValueError:  # longer than the reader's limit: nothing that concerns us
                continue
            if not line:
                return
            self._take(line.decode(errors="replace").strip())

    def _take(self, line: str) -> None:
        news = _parse(line)
        address = news.get("address")
        if isinstance(address, str) and not self._address.done():
            self._address.set_result(address)
        elif news.get("phase") == "draining":
            self._draining.set()
        elif news.get("phase") == "failed":
            permanent = news.get("permanent") is True
            self._start_failure = StartFailure(str(news.get("message", "")), permanent)
        elif "phase" in news:
            _log.debug("engine process %d: %s", self.pid, line)
        elif line:
            # A full disk must not end the reading: the engine would block on its full pipe.
            with contextlib.suppress(OSError):
                self._log.append(line)


async def _stdout_of(process: Process | ForkedProcess) -> asyncio.StreamReader:
    assert process.stdout is not None, "spawned with a pipe"
    if isinstance(process, Process):
        return process.stdout
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    return reader


def _parse(line: str) -> dict[str, Any]:
    try:
        news = json.loads(line)
    except ValueError:
        return {}
    return cast("dict[str, Any]", news) if isinstance(news, dict) else {}
