"""A chat under way: questions in, answers out, and the commands between them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any, Protocol

from mlxmesh.generation.v1.generation_pb2 import FINISH_REASON_LENGTH
from mlxmesh_cli.commands.failures import described
from mlxmesh_cli.screen.answers import Answer, show
from mlxmesh_cli.screen.conversation import HELP, Command, Conversation, parse_line
from mlxmesh_cli.screen.output import say, terminal_columns
from mlxmesh_cli.screen.word_wrap import wrapped
from mlxmesh_client import ContextTooLong, MeshClient, MeshError
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.reference import ModelReference

MAX_LINE_BYTES = 16 << 20


class Prompt(Protocol):
    """Where questions come from."""

    async def ask(self) -> str:
        """The next question. Raises: EOFError on Ctrl-D, KeyboardInterrupt on Ctrl-C."""
        ...


class Chatting:
    """One conversation; what is not an answer goes to standard error."""

    def __init__(
        self, client: MeshClient, conversation: Conversation, options: dict[str, Any]
    ) -> None:
        self._client = client
        self._talk = conversation
        self._options = options

    async def introduce(self, gateway: str) -> None:
        """Says who answers. Raises: MeshError, where nobody can."""
        who = await self._described(self._talk.model)
        _note(f"{who} answers on {gateway}. /help lists what you can do, Ctrl-D leaves.")

    async def answer_lines(self) -> None:
        """Each line of standard input is a question. Raises: MeshError."""
        async for line in stdin_lines():
            if question := line.strip():
                answer = await show(self._asked(question))
                self._talk.record(question, answer.text)

    async def answer_questions(self, prompt: Prompt) -> None:
        """Until Ctrl-D or /quit; an error costs one answer and not the conversation."""
        while True:
            try:
                line = parse_line(await prompt.ask())
            except KeyboardInterrupt:
                _note("Ctrl-D or /quit leaves")
                continue
            except EOFError:
                return
            if line == Command("quit"):
                return
            if line:
                await _until_interrupted(
                    self._obey(line) if isinstance(line, Command) else self._answer(line)
                )

    def _asked(self, question: str) -> Any:
        messages = self._talk.messages(question)
        return self._client.generate(self._talk.model, messages=messages, **self._options)

    async def _answer(self, question: str) -> None:
        """Shows the answer, and remembers as much of it as came."""
        from mlxmesh_cli.screen.chat_prompt import keys_wait

        answer = Answer()
        try:
            with keys_wait():
                await show(self._asked(question), answer)
        except ContextTooLong as error:
            _warn(f"{described(error)}; /reset starts anew")
        finally:
            self._talk.record(question, answer.text)
        if answer.finished and answer.finished.finish_reason == FINISH_REASON_LENGTH:
            _note("cut at the most tokens of an answer; `--max-tokens` allows more")

    async def _obey(self, command: Command) -> None:
        match command.name:
            case "help":
                say(wrapped(HELP, terminal_columns()), err=True)
            case "reset":
                self._talk.turns.clear()
                _note("forgotten; the next question starts a new conversation")
            case "system":
                self._set_system(command.argument)
            case "model":
                await self._set_model(command.argument)
            case "save":
                self._save(command.argument)
            case _:
                _warn(f"there is no command /{command.name}; /help lists them, // sends a slash")

    def _set_system(self, text: str) -> None:
        if text:
            self._talk.system = "" if text == "-" else text
        _note(f"system message: {self._talk.system or 'none'}")

    async def _set_model(self, reference: str) -> None:
        who = await self._described(reference or self._talk.model)
        self._talk.model = reference or self._talk.model
        _note(f"{who} answers")

    async def _described(self, reference: str) -> str:
        """The version that a reference means. Raises: ModelNotFound, InvalidArgument."""
        model = await self._client.get_model(reference)
        parsed = ModelReference.parse(reference)
        number = parsed.version or model.aliases.get(parsed.alias or "") or model.default_version
        version = next((each for each in model.versions if each.version == number), None)
        if version is None:
            return reference
        return f"{model.name}@{number} ({version.context_tokens:,} tokens of context)"

    def _save(self, name: str) -> None:
        if not name:
            _warn("/save needs the name of a new file")
            return
        path = Path(name).expanduser()
        text = self._talk.as_json() if path.suffix == ".json" else self._talk.as_markdown()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            _warn(f"not saved: {path}: {error.strerror}")
        else:
            _note(f"saved in {path}")


async def _until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    """Runs it to its end, or until Ctrl-C; a MeshError is shown."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await task
    except MeshError as error:
        _warn(described(error))
    except asyncio.CancelledError:
        if not task.cancelled():
            raise
        _note("stopped; the conversation goes on")
    finally:
        task.cancel()
        loop.remove_signal_handler(signal.SIGINT)


def _note(text: str) -> None:
    say(wrapped(text, terminal_columns()), "bright_black", err=True)


def _warn(text: str) -> None:
    say(wrapped(f"error: {text}", terminal_columns()), "red", err=True)


async def stdin_lines() -> AsyncGenerator[str]:
    """Each line as it comes. Raises: InvalidArgument for one above MAX_LINE_BYTES."""
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    loop = asyncio.get_running_loop()
    try:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    except (ValueError, PermissionError):
        # A file: reading it never waits for anybody.
        for line in sys.stdin.buffer:
            yield line.decode(errors="replace")
        return
    while line := await _read_line(reader):
        yield line.decode(errors="replace")


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        raise InvalidArgument(
            f"a line of standard input has more than {MAX_LINE_BYTES >> 20} MiB; split it"
        ) from None
