"""One service process: started, restarted with backoff, and stopped with a grace period."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_never,
    wait_exponential_jitter,
)

from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.host.log_file import LogFile
from mlxmesh_shared.process.forked import ForkedProcess
from mlxmesh_shared.process.standby import encode_command
from mlxmesh_shared.process.startup import child_environment

_log = logging.getLogger(__name__)

STEADY_S = 60.0
LOG_TAIL_LINES = 5
MAX_EXIT_CHARACTERS = 300


@dataclass(frozen=True)
class Backoff:
    """The pauses between restarts of a process that keeps ending."""

    first_s: float = 0.2
    max_s: float = 60.0
    steady_s: float = STEADY_S
    """A process that ran for so long ran steadily: the pauses begin anew."""


DEFAULT_BACKOFF = Backoff()


@dataclass(frozen=True)
class Crash:
    """An unexpected end of a process."""

    name: str
    last_exit: str
    """How it ended, and the last line of its log."""
    failures: int
    """Ends in a row without a steady run in between; 0 after a steady run."""
    restart_at_s: float
    """When the next process is started, by the monotonic clock."""

    @property
    def restart_in_s(self) -> float:
        """How soon the next process is started."""
        return max(0.0, self.restart_at_s - time.monotonic())


class _EndedEarly(Exception):
    """The process ended before it had run steadily, or could not be started."""


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
        log: LogFile,
        forked: ForkedProcess | None = None,
        backoff: Backoff = DEFAULT_BACKOFF,
        on_crash: Callable[[Crash], None] = lambda _: None,
    ) -> None:
        """`forked`, where there is one, becomes its first process."""
        self.name = name
        self.restarts = 0
        self.crash: Crash | None = None
        """The last one."""
        self._command = command
        self.log = log
        self._forked = forked
        self._backoff = backoff
        self._on_crash = on_crash
        self._process: Process | ForkedProcess | None = None
        self._supervision: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, while there is one."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def spawn(self) -> None:
        """Start the process; its output is appended to the log. Raises: OSError."""
        if self._forked is not None:
            self.log.path.parent.mkdir(parents=True, exist_ok=True)
            self._process, self._forked = self._forked, None
            with contextlib.suppress(BrokenPipeError):  # it has ended; ended() tells how
                self._process.stdin.write(encode_command(self._command(), self.log.path))
            return
        descriptor = self.log.open_for_append()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=PIPE,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                env=child_environment(),
            )
        finally:
            os.close(descriptor)

    async def ended(self) -> None:
        """Wait until the process ends, then raise ServiceUnavailable with its last words."""
        assert self._process is not None, "spawn first"
        code = await self._process.wait()
        raise ServiceUnavailable(
            f"{self.name} ended with {exit_words(code)}: {self.log_tail()} (log: {self.log.path})"
        )

    def keep_running(self) -> None:
        """Starts to supervise: restarts the process whenever it ends."""
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
            lines = self.log.tail(LOG_TAIL_LINES)
        except OSError as error:
            return f"its log cannot be read: {error.strerror}"
        return " | ".join(line.strip() for line in lines) or "nothing in its log"

    async def _restart_loop(self) -> None:
        """Restart for ever; the pauses begin anew after each steady run."""
        while True:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(_EndedEarly),
                stop=stop_never,
                wait=wait_exponential_jitter(
                    multiplier=self._backoff.first_s,
                    max=self._backoff.max_s,
                    jitter=self._backoff.first_s,
                ),
                before_sleep=self._note_early_end,
            ):
                with attempt:
                    await self._run_once()
            self._note_crash(self._exit(), failures=0, pause_s=0)

    async def _run_once(self) -> None:
        if self.pid is None:
            self.restarts += 1
            try:
                await self.spawn()
            except OSError as error:
                raise _EndedEarly(f"it cannot be started: {error.strerror}") from None
        assert self._process is not None
        start = time.monotonic()
        await self._process.wait()
        if time.monotonic() - start < self._backoff.steady_s:
            raise _EndedEarly(self._exit())

    def _note_early_end(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        assert state.next_action is not None
        self._note_crash(
            str(state.outcome.exception()),
            failures=state.attempt_number,
            pause_s=state.next_action.sleep,
        )

    def _note_crash(self, last_exit: str, *, failures: int, pause_s: float) -> None:
        self.crash = Crash(self.name, last_exit, failures, time.monotonic() + pause_s)
        _log.warning("%s ended with %s; starting it again in %.1f s", self.name, last_exit, pause_s)
        self._on_crash(self.crash)

    def _exit(self) -> str:
        assert self._process is not None
        assert self._process.returncode is not None
        words = f"{exit_words(self._process.returncode)}: {last_message(self.log_tail())}"
        return words[:MAX_EXIT_CHARACTERS]


def last_message(tail: str) -> str:
    """The last thing that a log says: of a JSON record, its message."""
    line = tail.rpartition(" | ")[2]
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(line)["message"])
    return line


def exit_words(code: int) -> str:
    """How a process ended, by its exit code, which is negative for a signal."""
    if code >= 0:
        return f"code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
