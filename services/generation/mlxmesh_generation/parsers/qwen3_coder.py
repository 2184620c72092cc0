"""Tool calls of Qwen3-Coder and Qwen3.5 and later: `<function=NAME><parameter=KEY>value`. Pure."""

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
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_NAME = re.compile(r"[^\s<>]+")

_CALLS = Stops(_OPEN, _FUNCTION)
_NAME_END = Stops(">", "\n", "<")
_PARAMETERS = Stops(_PARAMETER, _FUNCTION_END, _CLOSE)
# A value may contain these texts. The end of a value is followed by what can follow a value; a
# value that begins on a line of its own also ends before a line that begins with one of them.
_AFTER_VALUE = (_PARAMETER, _FUNCTION_END, _CLOSE, "")
_VALUE_END = Stop(_PARAMETER_END, before=_AFTER_VALUE)
_LINES_END = Stop("\n" + _PARAMETER_END, before=_AFTER_VALUE)
_CALL_END = Stop(_FUNCTION_END, before=(_CLOSE,))
_INLINE_VALUE = Stops(_VALUE_END, _CALL_END)
_LINES_VALUE = Stops(_LINES_END, _VALUE_END, "\n" + _PARAMETER, "\n" + _FUNCTION_END)


class _Parser(ArgumentsScript):
    def __init__(self, tools: Sequence[Tool]) -> None:
        self._types = ArgumentTypes(tools)
        super().__init__()

    def script(self) -> Script[None]:
        while stop := (yield from self.copy_until(_CALLS, self.show_text)):
            if stop == _FUNCTION:
                yield from self._function(_FUNCTION, only_known=True)
                continue
            space = yield from self.skip_space()
            if (yield from self.take_marker(_FUNCTION)):
                yield from self._function(_OPEN + space + _FUNCTION, only_known=False)
            elif (yield from self.peek()):
                self.show_text(_OPEN + space)
            else:
                self.leave_out_call()

    def _function(self, written: str, *, only_known: bool) -> Script[None]:
        """A call from its name on; models forget the marker before it only in real calls."""
        name, end = yield from self.read_until(_NAME_END)
        if end != ">" or not _NAME.fullmatch(name) or (only_known and not self._types.has(name)):
            if end or only_known:
                self.show_text(written + name + end)
            else:
                self.leave_out_call()
            return
        self.begin_arguments(name)
        stop = (yield from self.read_until(_PARAMETERS))[1]
        while stop == _PARAMETER:
            stop = yield from self._parameter(name)
        if not stop:
            return
        self.end_arguments()
        if stop == _FUNCTION_END:
            yield from self._after_function()

    def _parameter(self, tool: str) -> Script[str]:
        """One argument; returns what ends or follows it."""
        key, end = yield from self.read_until(Stops(">"))
        if not end:
            return ""
        self.begin_argument(key)
        types = self._types.of(tool, key)
        is_lines = (yield from self.take_marker("\n")) == "\n"
        stop = yield from self.copy_value(types, _LINES_VALUE if is_lines else _INLINE_VALUE)
        if stop.strip() in (_PARAMETER, _FUNCTION_END):
            return stop.strip()
        return (yield from self.read_until(_PARAMETERS))[1] if stop else ""

    def _after_function(self) -> Script[None]:
        space = yield from self.skip_space()
        if not (yield from self.take_marker(_CLOSE)):
            self.show_text(space)


_WRITING = Writing(
    before_string=f"{_PARAMETER}NAME>\n",
    after=f"\n{_PARAMETER_END}\n",
    forbidden=(_PARAMETER, _PARAMETER_END, _FUNCTION_END, _OPEN, _CLOSE),
)


class Qwen3Coder:
    """The format `qwen3_coder`."""

    name = "qwen3_coder"
    markers = frozenset({_OPEN, _CLOSE})

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return _Parser(tools)

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        rules = CallRules(_WRITING, self.markers, token_id)
        end = rules.symbols(_FUNCTION_END + "\n" + _CLOSE)
        bodies = [
            rules.symbols("\n" + _FUNCTION + tool.name + ">\n")
            + f" {rules.arguments(tool, required=required)} {end}"
            for tool in tools
        ]
        return call_grammar(
            rules,
            Calls(_OPEN, one_of(bodies), separator="\n", hidden=(_FUNCTION,)),
            required=required,
            parallel=parallel,
        )


QWEN3_CODER = Qwen3Coder()
