"""The response format of gpt-oss: messages with channels, for reasoning, text and calls. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.argument_grammars import (
    CallRules,
    Writing,
    escaped,
    excluding,
    grammar,
    one_of,
)
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.grammars import arguments, marker
from mlxmesh_generation.parsers.parts import OutputParser
from mlxmesh_generation.parsers.scripted import Script, ScriptedParser, Show, Stop, Stops

START, MESSAGE, CHANNEL, CONSTRAIN = "<|start|>", "<|message|>", "<|channel|>", "<|constrain|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
_FINAL = f"{CHANNEL}final{MESSAGE}"
_MARKERS = frozenset({START, MESSAGE, CHANNEL, CONSTRAIN, END, CALL, RETURN})
_HEAD_BEGINNINGS = (CHANNEL, " to=", MESSAGE, START, CONSTRAIN)
_REASONING_CHANNEL = "analysis"
# Whom a model may address beside tools.
_PEOPLE = frozenset({"assistant", "user", "all"})
_FUNCTIONS = "functions."
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL_NAME = re.compile(r"\s*(analysis|commentary|final)\b")
_CONTENT_TYPE = re.compile(r"\s*(?:<\|constrain\|>\s*)?(?:json|code|text)?\s*")

_HEAD_END = Stops(MESSAGE, END, CALL, RETURN, START)
# A message may contain the texts of these tokens; its end is followed by the next message.
_ENDS = tuple(Stop(text, before=(START, "")) for text in (END, CALL, RETURN))
_MESSAGE_END = Stops(*_ENDS)
_NO_HEAD = Stops(START, CHANNEL)


@dataclass(frozen=True)
class _Head:
    """What the text before a message says."""

    channel: str
    recipient: str
    rest: str
    """Text after the name of the channel that has no meaning there."""

    @property
    def tool(self) -> str:
        """The name of the tool that the message calls; empty if it calls none."""
        is_call = self.recipient.startswith(_FUNCTIONS)
        return self.recipient.removeprefix(_FUNCTIONS) if is_call else ""


class HarmonyParser(ScriptedParser):
    """Reads an output that follows `<|start|>assistant`."""

    def __init__(self, answer: OutputParser | None = None, *, calls: bool = True) -> None:
        """`answer` reads the text; without `calls`, a call is no part of the output."""
        self._answer = answer
        self._calls = calls
        super().__init__(strips=False)
        self._reasons = True

    def show_text(self, text: str) -> None:
        if self._answer is None:
            super().show_text(text)
        else:
            self._parts += self._answer.feed(text)

    def script(self) -> Script[None]:
        yield from self._text_without_head()
        while (yield from self.peek()):
            yield from self._message()
        if self._answer is not None:
            self._parts += self._answer.flush()

    def _text_without_head(self) -> Script[None]:
        """Text before any message; models that were tuned further may write only text."""
        if (yield from self._begins_head()):
            return
        self._reasons = False
        self.show_text((yield from self.read_before(_NO_HEAD)))

    def _begins_head(self) -> Script[bool]:
        beginning = yield from self.take_marker(*_HEAD_BEGINNINGS)
        self._buffer.text = beginning + self._buffer.text
        return bool(beginning)

    def _message(self) -> Script[None]:
        """A message from its head on."""
        text, stop = yield from self.read_until(_HEAD_END)
        head = _head(text)
        if stop != MESSAGE:
            if head.channel == "final" or (head.channel and not head.recipient):
                self._show(head)(head.rest.strip())
            return
        if head.tool and self._calls:
            self._reasons = False
            self.show_call(head.tool)
            yield from self.skip_space()
            yield from self.copy_json(_MESSAGE_END)
        else:
            self._reasons = head.channel == _REASONING_CHANNEL
            yield from self.copy_until(_MESSAGE_END, self._show(head))
        self._reasons = False

    def _show(self, head: _Head) -> Show:
        """Where the text of a message goes; that for another program is left out."""
        if head.recipient and head.recipient not in _PEOPLE:
            return _leave_out
        return self.show_reasoning if head.channel == _REASONING_CHANNEL else self.show_text


def _leave_out(_text: str) -> None:
    """Shows nothing."""


def _head(text: str) -> _Head:
    """The head of a message; of several channels, the last one counts."""
    recipient = _RECIPIENT.search(text)
    last = text.rpartition(CHANNEL)[2] if CHANNEL in text else ""
    name = _CHANNEL_NAME.match(last)
    if name is None:
        return _Head("", recipient[1] if recipient else "", "")
    rest = _RECIPIENT.sub("", last[name.end() :])
    rest = rest[kind.end() :] if (kind := _CONTENT_TYPE.match(rest)) else rest
    return _Head(name[1], recipient[1] if recipient else "", rest)


def _body(end: str, markers: frozenset[str], token_id: TokenId) -> tuple[str, dict[str, str]]:
    """The symbols of a message's text up to its end, and their rules."""
    excluded = excluding(sorted(markers - {end}))
    if token_id(end) is not None:
        return f"message {marker(end, token_id)}", {
            "message": "BODY",
            "BODY": f"/(?s:.*)/{excluded}",
        }
    body = f"/(?s:.*){escaped(end)}/{excluded}"
    return "message", {"message[lazy]": "BODY", "BODY": body}


class Harmony:
    """The format `harmony` of calls. Its parser and its grammar also know the reasoning."""

    name = "harmony"
    markers = _MARKERS

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return HarmonyParser()

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        """Includes the reasoning before a call; a call ends the output, so there is only one."""
        rules = CallRules(Writing("", ""), self.markers, token_id)
        calls = [
            rules.symbols(f"{CHANNEL}commentary to=functions.{tool.name} {CONSTRAIN}json{MESSAGE}")
            + f" {arguments(tool, required=required)}"
            for tool in tools
        ]
        ending = one_of(calls)
        if not required:
            ending = one_of([*calls, f"{rules.symbols(f'{CHANNEL}final{MESSAGE}')} text"])
        channels = '"analysis"' if required else '("analysis" | "commentary")'
        head = f"{rules.symbols(CHANNEL)} {channels} {rules.symbols(MESSAGE)}"
        next_head = f'{rules.symbols(START)} "assistant"'
        body, named = _body(END, self.markers, token_id)
        return grammar(
            f"({head} {body} {next_head})* {ending}",
            {**named, "text": "TEXT", "TEXT": "/(?s:.*)/" + excluding(sorted(self.markers))},
        )


class HarmonyReasoning:
    """The format `harmony` of reasoning: the channel analysis."""

    name = "harmony"
    markers = _MARKERS
    end = _FINAL

    def is_open(self, prompt: str) -> bool:
        """The model reasons first, unless the prompt has begun a message."""
        return prompt.endswith(f"{START}assistant")

    def parser(self, answer: OutputParser, *, is_open: bool) -> OutputParser:
        """The parser of calls reads the reasoning too, so it stays as it is."""
        return answer if isinstance(answer, HarmonyParser) else HarmonyParser(answer, calls=False)


HARMONY = Harmony()
HARMONY_REASONING = HarmonyReasoning()
