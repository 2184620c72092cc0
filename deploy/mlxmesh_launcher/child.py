"""One service process: spawned, restarted with backoff, stopped with grace."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from pathlib import Path

from tenacity import (
    AsyncRetrying,
    RetryError,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.forked import ForkedProcess
from mlxmesh_shared.process import child_environment
from mlxmesh_shared.standby import order_line

_log = logging.getLogger(__name__)

MAX_QUICK_FAILURES = 10
STEADY_S = 60.0
LOG_TAIL_LINES = 5


class _EndedEarly(Exception):
    """The process ended before it had run steadily."""


class Child:
    """A service process that should be running.

    Its stdin is a pipe that it watches, so it ends with this process, however that goes. It runs in
    a session of its own: Ctrl-C in the terminal reaches the launcher alone, which stops services in
    order.
    """

    def __init__(
        self,
        *,
        name: str,
        command: Callable[[], Sequence[str]],
        log: Path,
        forked: ForkedProcess | None = None,
    ) -> None:
        """`forked`, where there is one, becomes its first process."""
        self.name = name
        self.restarts = 0
        self._command = command
        self._log = log
        self._forked = forked
        self._process: Process | ForkedProcess | None = None
        self._supervision: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, while there is one."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def spawn(self) -> None:
        """Start the process; its output is appended to the log."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if self._forked is not None:
            self._process, self._forked = self._forked, None
            with contextlib.suppress(BrokenPipeError):  # it has ended; ended() tells how
                self._process.stdin.write(order_line(self._command(), self._log))
            return
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=child_environment(),
            )

    async def ended(self) -> None:
        """Wait until the process ends, then raise ServiceUnavailable with its last words."""
        assert self._process is not None, "spawn first"
        code = await self._process.wait()
        raise ServiceUnavailable(
            f"{self.name} ended with code {code}: {self.log_tail()} (log: {self._log})"
        )

    def keep_running(self) -> None:
        """From here on, start the process again whenever it ends."""
        self._supervision = asyncio.create_task(self._restart_loop(), name=f"keep-{self.name}")

    async def stop(self, grace_s: float) -> None:
        """End the process: SIGTERM, then SIGKILL after the grace; returns when it is gone."""
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.gather(self._supervision, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def log_tail(self) -> str:
        """The last lines of the log, joined."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "no log"
        return " | ".join(line.strip() for line in lines[-LOG_TAIL_LINES:]) or "empty log"

    async def _restart_loop(self) -> None:
        """Restart until it ended MAX_QUICK_FAILURES times in a row without a steady run."""
        try:
            while True:
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type(_EndedEarly),
                    stop=stop_after_attempt(MAX_QUICK_FAILURES),
                    wait=wait_exponential_jitter(multiplier=0.2, max=10.0, jitter=0.2),
                ):
                    with attempt:
                        await self._run_once()
        except RetryError:
            _log.error("gave up on %s: %s (log: %s)", self.name, self.log_tail(), self._log)

    async def _run_once(self) -> None:
        if self.pid is None:
            code = self._process.returncode if self._process is not None else None
            _log.warning("%s ended with code %s; starting it again", self.name, code)
            self.restarts += 1
            await self.spawn()
        assert self._process is not None
        start = time.monotonic()
        await self._process.wait()
        if time.monotonic() - start < STEADY_S:
            raise _EndedEarly
