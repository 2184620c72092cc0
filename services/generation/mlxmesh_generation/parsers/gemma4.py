"""Tool calls of Gemma 4: `<|tool_call>call:NAME{key:<|"|>text<|"|>,...}<tool_call|>`. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.argument_grammars import (
    CallRules,
    Calls,
    Writing,
    call_grammar,
    one_of,
)
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.gemma4_grammar import GemmaRules
from mlxmesh_generation.parsers.grammars import literal
from mlxmesh_generation.parsers.parts import OutputParser
from mlxmesh_generation.parsers.scripted import Script, ScriptedParser, Stops
from mlxmesh_generation.parsers.think import Think
from mlxmesh_generation.parsers.typed_values import ANY_TYPE, as_json, quoted

_OPEN, _CLOSE = "<|tool_call>", "<tool_call|>"
_CHANNEL = "<|channel>"
_QUOTE = '<|"|>'
_CALL = "call:"
_NAME = re.compile(r"[^\s<>{}\"]+")

_CALLS = Stops(_OPEN)
_NAME_END = Stops("{", _CLOSE, _OPEN)
# Models also write the quotation marks of JSON.
_STRING_ENDS = {_QUOTE: Stops(_QUOTE), '"': Stops('"')}
_KEY_END = Stops(":", _CLOSE)
_SCALAR_END = Stops(",", "}", "]", _CLOSE)
_CALL_END = Stops(_CLOSE)
_CLOSING = {"{": "}", "[": "]"}


class _Parser(ScriptedParser):
    def script(self) -> Script[None]:
        while (yield from self.copy_until(_CALLS, self.show_text)):
            space = yield from self.skip_space()
            call = yield from self.take_marker(_CALL)
            name, end = yield from self.read_until(_NAME_END)
            if end == "{" and _NAME.fullmatch(name.strip()):
                yield from self._call(name.strip())
            elif end:
                self.show_text(_OPEN + space + call + name + end)
            else:
                self.leave_out_call()

    def _call(self, name: str) -> Script[None]:
        self.show_call(name)
        self.show_arguments("{")
        if (yield from self._values()):
            yield from self.read_until(_CALL_END)

    def _values(self) -> Script[bool]:
        """Shows values until the object of the arguments ends; whether the end of the call follows.

        The brackets that are open are kept here, so hostile nesting costs no stack.
        """
        closing = ["}"]
        key_follows = True
        while closing:
            yield from self.skip_space()
            character = yield from self.peek()
            if not character or (yield from self.take_marker(_CLOSE)):
                return False
            if character == closing[-1]:
                self.show_arguments((yield from self.take_character()))
                closing.pop()
            elif character in ",}]":
                self.show_arguments((yield from self.take_character()))
                key_follows = closing[-1] == "}"
            elif key_follows:
                if not (yield from self._key()):
                    return False
                key_follows = False
            elif character in _CLOSING:
                self.show_arguments((yield from self.take_character()))
                closing.append(_CLOSING[character])
                key_follows = character == "{"
            elif not (yield from self._scalar()):
                return False
        return True

    def _key(self) -> Script[bool]:
        """Shows a key with its colon; whether the call goes on."""
        quote, key = (yield from self.take_marker(*_STRING_ENDS)), ""
        if quote:
            key = (yield from self.read_until(_STRING_ENDS[quote]))[0]
        more, end = yield from self.read_until(_KEY_END)
        self.show_arguments(quoted(key if quote else more.strip()))
        if end == ":":
            self.show_arguments(":")
        return end == ":"

    def _scalar(self) -> Script[bool]:
        """Shows a string, number or word; whether the call goes on."""
        quote = yield from self.take_marker(*_STRING_ENDS)
        if quote:
            self.show_arguments('"')
            stop = yield from self.copy_until(_STRING_ENDS[quote], self._show_string)
            self.show_arguments('"' if stop else "")
            return bool(stop)
        text = yield from self.read_before(_SCALAR_END)
        following = yield from self.peek()
        self.show_arguments(as_json(text.strip(), ANY_TYPE) if following else text)
        return bool(following)

    def _show_string(self, text: str) -> None:
        self.show_arguments(quoted(text)[1:-1])


class Gemma4:
    """The format `gemma4`."""

    name = "gemma4"
    markers = frozenset({_OPEN, _CLOSE, _QUOTE})

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return _Parser(strips=False)

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        rules = CallRules(Writing("", ""), self.markers, token_id)
        values = GemmaRules(_QUOTE, token_id)
        calls = [
            f"{literal(_CALL + tool.name)} {values.arguments(tool, required=required)}"
            for tool in tools
        ]
        rules.rules = values.rules
        body = f"{one_of(calls)} {rules.symbols(_CLOSE)}"
        return call_grammar(rules, Calls(_OPEN, body), required=required, parallel=parallel)


@dataclass(frozen=True)
class _Thoughts(Think):
    """Reasoning in a channel, of which only the tokens around its name are special."""

    @property
    def markers(self) -> frozenset[str]:
        return frozenset({_CHANNEL, self.end})


GEMMA4 = Gemma4()
GEMMA4_THOUGHTS = _Thoughts("gemma4", f"{_CHANNEL}thought", "<channel|>")
