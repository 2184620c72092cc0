"""Renders chat templates in processes that may be killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from mlxmesh_generation.text import render_frames
from mlxmesh_generation.text.template_limits import MAX_RENDER_S
from mlxmesh_shared.errors import Draining, InvalidArgument, MeshError, ServiceUnavailable

# A process whose template exceeds its time is killed after this grace period.
_KILL_AFTER_S = 0.5
_START_S = 10.0
_END_S = 0.2
_MAX_IDLE = 2
_MAX_TEMPLATES = 64
# A process that handled this much data retains memory that it no longer needs.
_MAX_RETAINED_BYTES = 4 * 2**20
# The environment variables that a renderer inherits: no settings, no secrets.
_ENVIRONMENT = ("PATH", "TZ", "LANG", "LC_ALL")
_ENVIRONMENT_PREFIXES = ("PYTHON", "COVERAGE")


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template."""

    source: str
    variables: Mapping[str, str]
    """The names of special tokens that templates use, such as bos_token."""
    special_texts: Sequence[str] = ()
    """Texts that a conversation must not turn into special tokens."""

    @cached_property
    def name(self) -> str:
        parts = json.dumps([self.source, dict(self.variables), list(self.special_texts)])
        return sha256(parts.encode()).hexdigest()


@dataclass(frozen=True)
class Rendered:
    """Prompt text."""

    text: str
    has_marks: bool = False
    """Whether the caller's words hold texts of special tokens, which are marked."""


class Renderers:
    """A pool of processes, one per concurrent call; a few stay idle for later calls."""

    def __init__(self, max_render_s: float = MAX_RENDER_S) -> None:
        self._max_render_s = max_render_s
        self._idle: list[_Renderer] = []
        self._busy: set[_Renderer] = set()
        self._lock = threading.Lock()
        self._warmed = False
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The ids of all its processes."""
        with self._lock:
            return [renderer.pid for renderer in (*self._idle, *self._busy)]

    def warm(self) -> None:
        """Starts a first process in advance; returns before it is ready."""
        with self._lock:
            if not self._warmed and not self._closed:
                self._warmed = True
                self._idle.append(_Renderer())

    def render(self, template: ChatTemplate, conversation: Mapping[str, Any]) -> Rendered:
        """The prompt text. Blocks; any thread may call it.

        Raises: InvalidArgument(field="chat") when the template does not compile, refuses the
        conversation, fails, or exceeds its limits; ServiceUnavailable when no process can be had.
        """
        renderer = self._take()
        try:
            answer = renderer.ask(template, conversation, self._max_render_s)
        except TimeoutError:
            raise _unusable(f"took longer than {self._max_render_s:g} s") from None
        except (EOFError, OSError):
            raise _ended(renderer.end()) from None
        finally:
            self._give_back(renderer)
        return _rendered(answer)

    def close(self) -> None:
        """Ends all processes; calls that wait for one fail."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for renderer in self._busy:
                renderer.kill()
        for renderer in idle:
            renderer.end()

    def _take(self) -> "_Renderer":
        """Raises: ServiceUnavailable."""
        with self._lock:
            if self._closed:
                raise Draining("this instance is stopping; try again at another")
            renderer = self._idle.pop() if self._idle else None
            if renderer is not None and not renderer.is_alive:
                renderer.end()
                renderer = None
            renderer = renderer or _Renderer()
            self._busy.add(renderer)
        return renderer

    def _give_back(self, renderer: "_Renderer") -> None:
        with self._lock:
            self._busy.discard(renderer)
            if not self._closed and renderer.is_worth_keeping and len(self._idle) < _MAX_IDLE:
                self._idle.append(renderer)
                return
        renderer.end()


class _Renderer:
    """One process, for one thread at a time."""

    def __init__(self) -> None:
        """Raises: ServiceUnavailable."""
        try:
            self._stream, self._process = _started()
        except OSError as error:
            raise ServiceUnavailable("no process for chat templates can be started") from error
        self._known: set[str] = set()
        """The names of the templates that it has."""
        self._ready = False
        self.is_worth_keeping = False
        """Whether it has rendered once and can render again."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(
        self, template: ChatTemplate, conversation: Mapping[str, Any], max_render_s: float
    ) -> bytes:
        """Raises: TimeoutError; EOFError or OSError when the process ended; ServiceUnavailable."""
        self.is_worth_keeping = False
        request = _request(template, conversation, max_render_s, known=template.name in self._known)
        self._await_start()
        end_s = time.monotonic() + max_render_s + _KILL_AFTER_S
        self._stream.settimeout(max_render_s + _KILL_AFTER_S)
        render_frames.write_frame(self._stream, request)
        self._stream.settimeout(max(0.001, end_s - time.monotonic()))
        answer = render_frames.read_frame(self._stream)
        self._known.add(template.name)
        self.is_worth_keeping = (
            answer[:1] != render_frames.EXHAUSTED
            and max(len(request), len(answer)) <= _MAX_RETAINED_BYTES
            and len(self._known) < _MAX_TEMPLATES
        )
        return answer

    def kill(self) -> None:
        """Asks the kernel to end it."""
        self._process.kill()

    def end(self) -> int:
        """Waits briefly for its end; returns how it ended by itself."""
        self._stream.close()
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _await_start(self) -> None:
        if self._ready:
            return
        self._stream.settimeout(_START_S)
        try:
            render_frames.read_frame(self._stream)
        except (EOFError, OSError):
            raise ServiceUnavailable("the process for chat templates did not start") from None
        self._ready = True


def _started() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    with theirs:
        fd = theirs.fileno()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", render_frames.RENDER_MODULE, str(fd)],
                pass_fds=(fd,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
        except OSError:
            ours.close()
            raise
    return ours, process


def _request(
    template: ChatTemplate, conversation: Mapping[str, Any], max_render_s: float, *, known: bool
) -> bytes:
    request: dict[str, Any] = {
        "template": template.name,
        "max_render_s": max_render_s,
        "conversation": conversation,
    }
    if not known:
        request["source"] = template.source
        request["variables"] = dict(template.variables)
        request["special_texts"] = list(template.special_texts)
    return json.dumps(request, ensure_ascii=False).encode()


def _rendered(answer: bytes) -> Rendered:
    kind, content = answer[:1], answer[1:].decode()
    if kind == render_frames.REFUSED:
        because = f": {content}" if content else ""
        raise InvalidArgument(
            f"the model's chat template refuses this conversation{because}", field="chat"
        )
    if kind in (render_frames.UNUSABLE, render_frames.EXHAUSTED):
        raise _unusable(content)
    return Rendered(content, has_marks=kind == render_frames.MARKED_TEXT)


def _ended(code: int) -> MeshError:
    """Why a process ended in the middle of a rendering."""
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        return ServiceUnavailable("the process for chat templates was ended; try again")
    return _unusable("needs too much time or memory")


def _unusable(what: str) -> InvalidArgument:
    return InvalidArgument(f"the model's chat template {what}; send a prompt instead", field="chat")


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }
