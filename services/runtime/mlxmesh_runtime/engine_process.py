"""One operating-system process of an engine: spawns it, reads its stdout, signals it.

The process reports on stdout, one JSON object per line: the phases of its start, then its address
or why it cannot serve, and that it drains. Its stdin is a pipe that stays open: when the runtime
dies, the engine reads the end of the pipe and exits. `EngineRun` adds the registry and heartbeats.
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
    """Why an engine could not start, as it reported; `permanent` if a retry cannot succeed."""

    message: str
    permanent: bool


def describe_exit(returncode: int) -> str:
    """Describes how a process ended, from its return code (negative: a signal)."""
    if returncode >= 0:
        return f"ended unexpectedly with exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    if name == "SIGKILL":
        return "was killed with SIGKILL, but not by its runtime; is the host out of memory?"
    return f"was terminated by {name}"


class EngineProcess:
    """Owns one process from `spawn` to its end."""

    def __init__(self, process: Process | ForkedProcess, log: LogFile) -> None:
        self._process = process
        self._log = log
        self._address = asyncio.get_running_loop().create_future()
        self._group_address = asyncio.get_running_loop().create_future()
        self._draining = asyncio.Event()
        self._start_failure: StartFailure | None = None
        self._reader = asyncio.create_task(self._read_stdout(), name=f"stdout-{process.pid}")
        self._terminated = False

    @classmethod
    async def spawn(cls, command: Sequence[str], log: LogFile, spare: SpareEngine) -> EngineProcess:
        """Use the spare process or start one; stderr is appended to the log. Raises: OSError."""
        process = spare.acquire(command, log.path)
        return cls(process or await cls._start(command, log), log)

    @staticmethod
    async def _start(command: Sequence[str], log: LogFile) -> Process:
        stderr = log.open_for_append()
        try:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=stderr,
                # Ctrl-C in a terminal must only reach the runtime, which then drains its engines.
                start_new_session=True,
                env=child_environment(),
            )
        finally:
            os.close(stderr)

    @property
    def pid(self) -> int:
        """The process id, also after the process ended."""
        return self._process.pid

    async def wait_for_address(self) -> str:
        """Wait until the engine serves and return its host:port."""
        return await asyncio.shield(self._address)

    async def wait_for_group_address(self) -> str:
        """Wait until rank 0 of a group listens for the other ranks, and return its host:port."""
        return await asyncio.shield(self._group_address)

    async def wait_for_drain(self) -> None:
        """Wait until the process reports that it drains."""
        await self._draining.wait()

    async def wait_for_exit(self) -> str:
        """Wait for the end of the process and describe it."""
        return describe_exit(await self._process.wait())

    async def start_failure(self) -> StartFailure | None:
        """Why the process, which has ended, could not start; None if it did not report it."""
        await asyncio.wait({self._reader}, timeout=READ_REST_S)
        return self._start_failure

    async def stop(self, grace_s: float) -> None:
        """Drain the process, kill it after the grace, return once it ended. Safe to call again."""
        if not self._terminated:
            self._terminated = True
            self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
        # A child of the engine may keep the pipe open.
        await asyncio.wait({self._reader}, timeout=READ_REST_S)
        self._reader.cancel()

    async def kill(self) -> None:
        """Kill the process and return once it ended."""
        self._send(signal.SIGKILL)
        await self._process.wait()

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _read_stdout(self) -> None:
        """Read every line until the end, so that the process never blocks on a full pipe."""
        stdout = await _stdout_of(self._process)
        while True:
            try:
                line = await stdout.readline()
            except ValueError:  # longer than the reader's limit: not a report
                continue
            if not line:
                return
            self._handle_line(line.decode(errors="replace").strip())

    def _handle_line(self, line: str) -> None:
        report = _parse(line)
        address = report.get("address")
        if isinstance(address, str) and not self._address.done():
            self._address.set_result(address)
        elif isinstance(group := report.get("group_address"), str):
            if not self._group_address.done():
                self._group_address.set_result(group)
        elif report.get("phase") == "draining":
            self._draining.set()
        elif report.get("phase") == "failed":
            permanent = report.get("permanent") is True
            self._start_failure = StartFailure(str(report.get("message", "")), permanent)
        elif "phase" in report:
            _log.debug("engine process %d: %s", self.pid, line)
        elif line:
            # A full disk must not stop the reader: the engine would block on a full pipe.
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
        report = json.loads(line)
    except ValueError:
        return {}
    return cast("dict[str, Any]", report) if isinstance(report, dict) else {}
