"""A spare engine process: it has imported MLX and waits for the model to load.

`EngineProcess.spawn` acquires it, so that an engine starts without the time of the imports.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from mlxmesh_shared.process.forked import ForkedProcess, can_fork
from mlxmesh_shared.process.standby import encode_command
from mlxmesh_shared.process.startup import child_environment, run_service

# The engine that used the last one starts and serves its first requests before the next starts.
REFILL_AFTER_S = 10.0

_log = logging.getLogger(__name__)


class SpareEngine:
    """At most one process at a time; none if the command line is empty."""

    def __init__(self, line: Sequence[str], *, refill_after_s: float = REFILL_AFTER_S) -> None:
        self._line = line
        self._refill_after_s = refill_after_s
        self._process: Process | ForkedProcess | None = None
        self._refilling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process; a failure is only logged, since engines also start without it."""
        if not self._line:
            return
        try:
            self._process = await self._spawn()
        except OSError as error:
            _log.warning("the spare engine process cannot be started: %s", error.strerror)

    async def _spawn(self) -> Process | ForkedProcess:
        if self._line[1:2] == ["-m"] and can_fork():
            return ForkedProcess.fork(
                partial(run_module, self._line), " ".join(self._line), pipe_stdout=True
            )
        return await asyncio.create_subprocess_exec(
            *self._line,
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,
            env=child_environment(),
        )

    def acquire(self, command: Sequence[str], log: Path) -> Process | ForkedProcess | None:
        """The process, which becomes what `command` would start; None if there is none."""
        process, self._process = self._process, None
        if self._line:
            self._refilling = asyncio.create_task(self._refill(), name="refill-spare-engine")
        if process is None or process.returncode is not None:
            return None
        assert process.stdin is not None, "spawned with a pipe"
        with contextlib.suppress(BrokenPipeError):  # its user sees that it ended
            process.stdin.write(encode_command(command, log))
        return process

    async def close(self) -> None:
        """Kill the process if there is one."""
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.gather(self._refilling, return_exceptions=True)
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _refill(self) -> None:
        await asyncio.sleep(self._refill_after_s)
        if self._process is None:
            await self.start()


def run_module(line: Sequence[str]) -> int:
    """Run what the command line `python -m module arguments` starts; returns the exit code."""
    module, *_ = sys.argv = list(line[2:])
    return run_service(import_module(f"{module}.__main__").main)
