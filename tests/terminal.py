"""A terminal for tests: a program of ours in a pty, what is typed into it, and what it shows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import termios
from collections.abc import AsyncIterator, Callable, Mapping

# The terminal becomes the program's own, so that Ctrl-C reaches it as a signal.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")
CTRL_C, CTRL_D, ENTER, ALT_ENTER, UP = "\x03", "\x04", "\r", "\x1b\r", "\x1b[A"
# How prompt_toolkit draws a prompt behind which nothing is typed yet.
_EMPTY_PROMPT = ">\x08\x1b[2C"
PROMPT = "<prompt>"
TIMEOUT_S = 20.0


class Terminal:
    """A program and the terminal that it runs in."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self._master = master
        self._raw = b""
        self._seen = 0
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    @property
    def text(self) -> str:
        """All that was shown so far, without escape sequences; PROMPT for each that is empty."""
        return _ESCAPES.sub("", self.raw.replace(_EMPTY_PROMPT, PROMPT))

    @property
    def raw(self) -> str:
        """All that was written so far."""
        return self._raw.decode(errors="replace")

    async def shows(self, text: str) -> None:
        """Returns once it shows the text, after what was waited for before."""
        await self._until(lambda: text in self.text[self._seen :], text)
        self._seen = self.text.index(text, self._seen) + len(text)

    async def ends_in(self, text: str) -> None:
        """Returns once this is the last that it shows."""
        await self._until(lambda: self.text.endswith(text), text)
        self._seen = len(self.text)

    async def _until(self, is_so: Callable[[], bool], wanted: str) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not is_so():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{wanted!r} did not come: {self.raw!r}") from None

    async def types(self, text: str) -> None:
        """Types the text, as fast as the terminal takes it."""
        left = text.encode()
        async with asyncio.timeout(TIMEOUT_S):
            while left:
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(self._master, left) :]
                await asyncio.sleep(0.002)

    async def pastes(self, text: str) -> None:
        """Pastes the text, as terminals do where a program asked for marks around it."""
        lines = text.replace("\n", "\r")
        await self.types(f"\x1b[200~{lines}\x1b[201~")

    def resize(self, columns: int, lines: int = 24) -> None:
        """Makes the terminal smaller or larger."""
        termios.tcsetwinsize(self._master, (lines, columns))

    async def ends(self) -> int:
        """Its exit code, once it has ended."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self.process.wait()

    def close(self) -> None:
        """Takes the terminal away."""
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:
            # The last program of the terminal has ended.
            asyncio.get_running_loop().remove_reader(self._master)
            data = b""
        self._raw += data
        self._news.set()


@contextlib.asynccontextmanager
async def terminal(
    *arguments: str, env: Mapping[str, str] | None = None, columns: int = 80
) -> AsyncIterator[Terminal]:
    """Python with these arguments in a terminal of so many columns; it ends with the block."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    termios.tcsetwinsize(slave, (24, columns))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _TAKE_TERMINAL,
        *arguments,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **(env or {})},
    )
    os.close(slave)
    shown = Terminal(process, master)
    try:
        yield shown
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        shown.close()
