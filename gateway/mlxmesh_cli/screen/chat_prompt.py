"""The prompt of a chat: multi-line questions, pasted text, and a bounded history."""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

MAX_HISTORY_BYTES = 256 * 1024
# prompt_toolkit writes this before the time of each entry.
_ENTRY_START = b"\n# "
_PASTE_MARKS_ON, _PASTE_MARKS_OFF = "\x1b[?2004h", "\x1b[?2004l"


class PrivateHistory(FileHistory):
    """Questions in a file of mode 0600 with at most MAX_HISTORY_BYTES; the oldest are dropped.

    Raises: OSError when the file cannot be opened. Later write errors are ignored.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            os.fchmod(descriptor, 0o600)
            kept = _newest(file.read())
            file.seek(0)
            file.write(kept)
            file.truncate()
        super().__init__(str(path))

    def store_string(self, string: str) -> None:
        """Appends a question."""
        with suppress(OSError):
            super().store_string(string)


def _newest(content: bytes) -> bytes:
    """The newest entries that fit."""
    if len(content) <= MAX_HISTORY_BYTES:
        return content
    end = content[-MAX_HISTORY_BYTES:]
    return end[end.find(_ENTRY_START) :] if _ENTRY_START in end else b""


def history_path() -> Path:
    """The history's file, in XDG_STATE_HOME or ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "mlxmesh" / "chat_history"


class ChatPrompt:
    """Reads questions from a terminal."""

    def __init__(self, *, keep_history: bool) -> None:
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            key_bindings=_keys(),
            history=_history() if keep_history else InMemoryHistory(),
            output=create_output(always_prefer_tty=True),
        )

    async def ask(self) -> str:
        """The next question. Raises: EOFError on Ctrl-D, KeyboardInterrupt on Ctrl-C."""
        return await self._session.prompt_async()


def _history() -> History:
    try:
        return PrivateHistory(history_path())
    except OSError:
        return InMemoryHistory()


def _keys() -> KeyBindings:
    """Enter sends; Alt-Enter, or Enter after a backslash, starts a new line."""
    keys = KeyBindings()

    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    keys.add("enter")(enter)
    keys.add("escape", "enter")(new_line)
    return keys


@contextmanager
def buffer_keys() -> Generator[None]:
    """Buffers typed keys without showing them, for the next question; Ctrl-C still works.

    Canonical mode is off meanwhile, because it limits lines to 4,095 bytes.
    """
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    during = termios.tcgetattr(terminal)
    during[0] &= ~termios.ICRNL
    during[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(terminal, termios.TCSANOW, during)
    _write(_PASTE_MARKS_ON)
    try:
        yield
    finally:
        _write(_PASTE_MARKS_OFF)
        termios.tcsetattr(terminal, termios.TCSANOW, before)


def _write(sequence: str) -> None:
    """Writes to the terminal, even if standard output is redirected."""
    stream = next((each for each in (sys.stdout, sys.stderr) if each.isatty()), None)
    if stream is not None:
        stream.write(sequence)
        stream.flush()
