"""Tries grammars in processes that may be killed, before the engine compiles them itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mlxmesh_engine.constraints.grammars import refusal, too_complex
from mlxmesh_engine.scheduling.request import Grammar
from mlxmesh_shared.errors import ServiceUnavailable

TRIAL_MODULE = "mlxmesh_engine.constraints.trial_process"
_START_S = 30.0
_END_S = 0.2
# The environment variables that a trial process inherits: no settings, no secrets.
_ENVIRONMENT = ("PATH", "TZ", "LANG", "LC_ALL")
_ENVIRONMENT_PREFIXES = ("PYTHON", "COVERAGE")


@dataclass(frozen=True, slots=True)
class TrialModel:
    """The model whose tokens a grammar is about."""

    model_dir: Path
    vocab_size: int
    eos_token_ids: frozenset[int]

    @property
    def arguments(self) -> list[str]:
        return [str(self.model_dir), str(self.vocab_size), *map(str, sorted(self.eos_token_ids))]


class Trials:
    """Processes for concurrent trials, each for one thread at a time; idle ones are used again."""

    def __init__(self, model: TrialModel, timeout_s: float) -> None:
        self._model = model
        self._timeout_s = timeout_s
        self._idle: list[_Trial] = []
        self._running: set[_Trial] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The ids of the idle processes."""
        with self._lock:
            return [trial.pid for trial in self._idle]

    def check(self, grammar: Grammar, compiled_text: str) -> int:
        """The memory in bytes that the compiled grammar needs. Blocks.

        Raises: ConstraintInvalid, ConstraintTooComplex; TimeoutError; ServiceUnavailable if no
        process starts.
        """
        trial = self._take()
        answer = None
        try:
            answer = trial.ask(compiled_text, self._timeout_s)
        except TimeoutError:
            raise
        except (EOFError, OSError):
            if trial.end() in (-signal.SIGKILL, -signal.SIGTERM):
                raise ServiceUnavailable("the trial of a grammar was ended; try again") from None
            raise too_complex(grammar, "needs too much memory to compile") from None
        finally:
            self._give_back(trial, reusable=answer is not None)
        if answer["error"]:
            raise refusal(grammar, str(answer["error"]))
        return answer["bytes"]

    def close(self) -> None:
        """Ends all processes; those who wait for one get ServiceUnavailable."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for trial in self._running:
                trial.kill()
        for trial in idle:
            trial.end()

    def _take(self) -> "_Trial":
        """Raises: ServiceUnavailable."""
        with self._lock:
            trial = self._idle.pop() if self._idle else None
        if trial is not None and not trial.is_alive:
            trial.end()
            trial = None
        trial = trial or _Trial(self._model)
        with self._lock:
            self._running.add(trial)
            if self._closed:
                trial.kill()
        return trial

    def _give_back(self, trial: "_Trial", *, reusable: bool) -> None:
        with self._lock:
            self._running.discard(trial)
            if reusable and not self._closed:
                self._idle.append(trial)
                return
        trial.end()


class _Trial:
    """One process."""

    def __init__(self, model: TrialModel) -> None:
        """Raises: ServiceUnavailable."""
        try:
            self._connection, self._process = _started(model)
        except OSError as error:
            raise ServiceUnavailable("no process for grammars can be started") from error
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, grammar: str, timeout_s: float) -> dict[str, Any]:
        """Raises: TimeoutError; EOFError or OSError when it ended; ServiceUnavailable."""
        self._await_start()
        request = {"grammar": grammar, "timeout_s": timeout_s}
        self._connection.send_bytes(json.dumps(request).encode())
        if not self._connection.poll(timeout_s):
            raise TimeoutError
        return json.loads(self._connection.recv_bytes())

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int:
        """Waits briefly for its end, then kills it; returns how it ended by itself."""
        self._connection.close()
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _await_start(self) -> None:
        if self._ready:
            return
        try:
            if not self._connection.poll(_START_S):
                raise EOFError
            self._connection.recv_bytes()
        except (EOFError, OSError):
            self.end()
            raise ServiceUnavailable("the process for grammars did not start") from None
        self._ready = True


def _started(model: TrialModel) -> tuple[Connection, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", TRIAL_MODULE, str(fd), *model.arguments],
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        return Connection(ours.detach()), process


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }
