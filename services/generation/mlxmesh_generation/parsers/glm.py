"""Tool calls of GLM-4.5 and later: a name, keys and values between markers. Pure."""

import re
from collections.abc import Sequence

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.argument_grammars import (
    CallRules,
    Calls,
    Writing,
    call_grammar,
    one_of,
)
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.parts import OutputParser
from mlxmesh_generation.parsers.scripted import ArgumentsScript, Script, Stop, Stops
from mlxmesh_generation.parsers.typed_values import ArgumentTypes

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_KEY, _KEY_END = "<arg_key>", "</arg_key>"
_VALUE, _VALUE_END = "<arg_value>", "</arg_value>"
_NAME = re.compile(r"[^\s<>{}\"']+")

_CALLS = Stops(_OPEN)
_NAME_END = Stops("\n", _KEY, _CLOSE)
_KEYS = Stops(_KEY, _CLOSE)
_VALUES = Stops(_VALUE, _KEY, _CLOSE)
# A value may contain the other markers. Without its own end it ends with the call.
_VALUE_ENDS = Stops(_VALUE_END, Stop(_CLOSE, before=(_OPEN, "")))


class _Parser(ArgumentsScript):
    def __init__(self, tools: Sequence[Tool]) -> None:
        self._types = ArgumentTypes(tools)
        super().__init__()

    def script(self) -> Script[None]:
        while (yield from self.copy_until(_CALLS, self.show_text)):
            space = yield from self.skip_space()
            name, end = yield from self.read_until(_NAME_END)
            if end and _NAME.fullmatch(name.strip()):
                yield from self._call(name.strip(), end)
            elif end:
                self.show_text(_OPEN + space + name + end)
            else:
                self.leave_out_call()

    def _call(self, name: str, stop: str) -> Script[None]:
        self.begin_arguments(name)
        if stop == "\n":
            stop = (yield from self.read_until(_KEYS))[1]
        while stop == _KEY:
            stop = yield from self._argument(name)
        if stop == _CLOSE:
            self.end_arguments()

    def _argument(self, tool: str) -> Script[str]:
        """One argument; returns what follows it."""
        key, end = yield from self.read_until(Stops(_KEY_END, _CLOSE))
        if end != _KEY_END:
            return end
        stop = (yield from self.read_until(_VALUES))[1]
        if stop != _VALUE:
            return stop
        self.begin_argument(key)
        stop = yield from self.copy_value(self._types.of(tool, key), _VALUE_ENDS)
        return (yield from self.read_until(_KEYS))[1] if stop == _VALUE_END else stop


_WRITING = Writing(
    before_string=f"{_KEY}NAME{_KEY_END}\n{_VALUE}",
    after=f"{_VALUE_END}\n",
    forbidden=(_OPEN, _CLOSE, _KEY, _KEY_END, _VALUE, _VALUE_END),
    optional_lines=True,
)


class Glm:
    """The format `glm`."""

    name = "glm"
    markers = frozenset({_OPEN, _CLOSE, _KEY, _KEY_END, _VALUE, _VALUE_END})

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return _Parser(tools)

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        rules = CallRules(_WRITING, self.markers, token_id)
        bodies = [
            rules.symbols(tool.name + "\n") + " " + rules.arguments(tool, required=required)
            for tool in tools
        ]
        return call_grammar(
            rules,
            Calls(_OPEN, f"{one_of(bodies)} {rules.symbols(_CLOSE)}", separator="\n"),
            required=required,
            parallel=parallel,
        )


GLM = Glm()
