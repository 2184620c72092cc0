"""Tool calls with JSON arguments between special tokens, in a section: DeepSeek and Kimi. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_generation.parsers.argument_grammars import (
    CallRules,
    Calls,
    Writing,
    call_grammar,
    one_of,
    repeated,
)
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.scripted import Script, ScriptedParser, Stops

_NAME = re.compile(r"[^\s<>{}\"`]+")


@dataclass(frozen=True)
class Section:
    """The markers of a format."""

    begin: str
    end: str
    call_begin: str
    separator: str
    """Between the head of a call and its arguments."""
    call_end: str
    fence: str = ""
    """Before the JSON of the arguments, after the name, which then follows the separator."""

    @property
    def markers(self) -> frozenset[str]:
        return frozenset({self.begin, self.end, self.call_begin, self.separator, self.call_end})


class SectionParser(ScriptedParser):
    """Reads the calls of sections, and calls without a section around them."""

    def __init__(self, section: Section) -> None:
        self._section = section
        self._outside = Stops(section.begin, section.call_begin)
        self._inside = Stops(section.call_begin, section.end)
        self._head_end = Stops(section.separator, section.call_end, section.call_begin, section.end)
        self._arguments_end = Stops(section.call_end, section.call_begin, section.end)
        super().__init__(strips=False)

    def name_of(self, head: str) -> tuple[str, str]:
        """The name and the id of a call in the text before its arguments."""
        return head.strip(), ""

    def script(self) -> Script[None]:
        while stop := (yield from self.copy_until(self._outside, self.show_text)):
            if stop == self._section.begin:
                yield from self._calls()
            else:
                yield from self._adjacent_calls()

    def _calls(self) -> Script[None]:
        """A section; its text outside calls is shown only if it has no call."""
        written, has_calls = self._section.begin, False
        while True:
            text, stop = yield from self.read_until(self._inside)
            written += text + stop
            if stop != self._section.call_begin:
                break
            has_calls = True
            stop = yield from self._adjacent_calls()
            if stop == self._section.end or not stop:
                return
        if not stop:
            self.leave_out_call()
        elif not has_calls and written != self._section.begin + stop:
            self.show_text(written)

    def _adjacent_calls(self) -> Script[str]:
        """A call, and those that begin where its end is missing; returns the last marker."""
        stop = self._section.call_begin
        while stop == self._section.call_begin:
            stop = yield from self._call()
        return stop

    def _call(self) -> Script[str]:
        """A call after its first marker; returns its last marker."""
        head, stop = yield from self.read_until(self._head_end)
        written = self._section.call_begin + head + stop
        if stop == self._section.separator and self._section.fence:
            head, stop = yield from self.read_until(Stops("\n", self._section.call_end))
            written += head + stop
        name, call_id = self.name_of(head)
        if stop not in (self._section.separator, "\n") or not _NAME.fullmatch(name):
            if stop:
                self.show_text(written)
            else:
                self.leave_out_call()
            return stop
        self.show_call(name, call_id)
        yield from self.skip_space()
        if self._section.fence and (yield from self.take_marker(self._section.fence)):
            yield from self.skip_space()
        return (yield from self.copy_json(self._arguments_end))


def section_grammar(
    section: Section,
    calls: Sequence[str],
    *,
    separator: str = "",
    required: bool,
    parallel: bool,
    token_id: TokenId,
) -> str:
    """A grammar of sections; calls: the rule of each tool's call, between its markers."""
    rules = CallRules(Writing("", ""), section.markers, token_id)
    begin, end = rules.symbols(section.call_begin), rules.symbols(section.call_end)
    call = f"{begin} {one_of(calls)} {end}"
    # Several calls are in one section.
    body = repeated(call, rules.symbols(separator), parallel=parallel)
    body += " " + rules.symbols(section.end)
    return call_grammar(
        rules,
        Calls(section.begin, body, hidden=(section.call_begin,)),
        required=required,
        parallel=False,
    )
