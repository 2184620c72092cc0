"""An interactive chat: reads questions and commands, shows responses."""

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
from mlxmesh_cli.screen.conversation import HELP, Command, Conversation, parse_line
from mlxmesh_cli.screen.output import say, terminal_columns
from mlxmesh_cli.screen.responses import Response, show
from mlxmesh_cli.screen.word_wrap import wrapped
from mlxmesh_client import ContextTooLong, MeshClient, MeshError
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.reference import ModelReference

MAX_LINE_BYTES = 16 << 20


class Prompt(Protocol):
    """A source of questions."""

    async def ask(self) -> str:
        """The next question. Raises: EOFError on Ctrl-D, KeyboardInterrupt on Ctrl-C."""
        ...


class ChatSession:
    """One conversation; standard output carries responses only, the rest goes to standard error."""

    def __init__(
        self, client: MeshClient, conversation: Conversation, options: dict[str, Any]
    ) -> None:
        self._client = client
        self._conversation = conversation
        self._options = options

    async def introduce(self, gateway: str) -> None:
        """Shows which model responds. Raises: MeshError when it cannot."""
        who = await self._described(self._conversation.model)
        _note(f"chatting with {who} on {gateway}; /help lists commands, Ctrl-D leaves")

    async def answer_lines(self) -> None:
        """Answers each line of standard input. Raises: MeshError."""
        async for line in stdin_lines():
            if question := line.strip():
                answer = await show(self._generate(question))
                self._conversation.record(question, answer.text)

    async def answer_questions(self, prompt: Prompt) -> None:
        """Answers questions until Ctrl-D or /quit; an error ends one response, not the chat."""
        while True:
            try:
                line = parse_line(await prompt.ask())
            except KeyboardInterrupt:
                _note("Ctrl-D or /quit leaves the chat")
                continue
            except EOFError:
                return
            if line == Command("quit"):
                return
            if line:
                await _until_interrupted(
                    self._execute(line) if isinstance(line, Command) else self._answer(line)
                )

    def _generate(self, question: str) -> Any:
        messages = self._conversation.messages(question)
        return self._client.generate(self._conversation.model, messages=messages, **self._options)

    async def _answer(self, question: str) -> None:
        """Shows a response, and records it even if it was stopped."""
        from mlxmesh_cli.screen.chat_prompt import buffer_keys

        answer = Response()
        try:
            with buffer_keys():
                await show(self._generate(question), answer)
        except ContextTooLong as error:
            _warn(f"{described(error)}; /reset starts a new conversation")
        finally:
            self._conversation.record(question, answer.text)
        if answer.finished and answer.finished.finish_reason == FINISH_REASON_LENGTH:
            _note("the response reached its maximum length; `--max-tokens` raises it")

    async def _execute(self, command: Command) -> None:
        match command.name:
            case "help":
                say(wrapped(HELP, terminal_columns()), err=True)
            case "reset":
                self._conversation.turns.clear()
                _note("conversation reset")
            case "system":
                self._set_system(command.argument)
            case "model":
                await self._set_model(command.argument)
            case "save":
                self._save(command.argument)
            case _:
                _warn(f"unknown command /{command.name}; /help lists commands, // sends a slash")

    def _set_system(self, text: str) -> None:
        if text:
            self._conversation.system = "" if text == "-" else text
        _note(f"system message: {self._conversation.system or 'none'}")

    async def _set_model(self, reference: str) -> None:
        who = await self._described(reference or self._conversation.model)
        self._conversation.model = reference or self._conversation.model
        _note(f"chatting with {who}")

    async def _described(self, reference: str) -> str:
        """The model version of a reference, in words. Raises: ModelNotFound, InvalidArgument."""
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
        text = (
            self._conversation.as_json()
            if path.suffix == ".json"
            else self._conversation.as_markdown()
        )
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            _warn(f"not saved: {path}: {error.strerror}")
        else:
            _note(f"saved in {path}")


async def _until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    """Awaits work until it ends or Ctrl-C cancels it; shows a MeshError."""
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
        _note("response stopped")
    finally:
        task.cancel()
        loop.remove_signal_handler(signal.SIGINT)


def _note(text: str) -> None:
    say(wrapped(text, terminal_columns()), "bright_black", err=True)


def _warn(text: str) -> None:
    say(wrapped(f"error: {text}", terminal_columns()), "red", err=True)


async def stdin_lines() -> AsyncGenerator[str]:
    """Yields each line of standard input. Raises: InvalidArgument above MAX_LINE_BYTES."""
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    loop = asyncio.get_running_loop()
    try:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    except (ValueError, PermissionError):
        # A regular file: reading it does not block.
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
