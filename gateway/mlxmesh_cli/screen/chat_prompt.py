"""The prompt of a chat: questions of several lines, pastes, and a bounded history."""

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
# What prompt_toolkit writes before each entry, ahead of its time.
_ENTRY_START = b"\n# "
_PASTE_MARKS_ON, _PASTE_MARKS_OFF = "\x1b[?2004h", "\x1b[?2004l"


class PrivateHistory(FileHistory):
    """Questions in a file of mode 0600, at most MAX_HISTORY_BYTES: the oldest are dropped first.

    Raises: OSError when the file cannot be opened. A disk that fills up later loses the history,
    not the chat.
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
    """As much of the end as may be kept, from the start of an entry on."""
    if len(content) <= MAX_HISTORY_BYTES:
        return content
    end = content[-MAX_HISTORY_BYTES:]
    return end[end.find(_ENTRY_START) :] if _ENTRY_START in end else b""


def history_path() -> Path:
    """Where the history is: in XDG_STATE_HOME, by default ~/.local/state."""
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
def keys_wait() -> Generator[None]:
    """What is typed meanwhile is not shown, and waits for the next question; Ctrl-C still works.

    The terminal hands over lines only up to 4,095 bytes, so lines are switched off.
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
    """To the terminal, wherever the answer goes."""
    stream = next((each for each in (sys.stdout, sys.stderr) if each.isatty()), None)
    if stream is not None:
        stream.write(sequence)
        stream.flush()
