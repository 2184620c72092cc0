"""Tool calls as tags with attributes: a block of calls, and their parameters. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.argument_grammars import (
    CallRules,
    Calls,
    call_grammar,
    one_of,
    repeated,
)
from mlxmesh_generation.parsers.scripted import ArgumentsScript, Script, Stops
from mlxmesh_generation.parsers.typed_values import ArgumentTypes

_ATTRIBUTE = re.compile(r"""([\w-]+)=(?:"([^"]*)"|'([^']*)')""")


@dataclass(frozen=True)
class InvokeTags:
    """The tags of a format."""

    blocks: tuple[str, ...]
    """What begins a block of calls."""
    block_ends: tuple[str, ...]
    invoke: str
    """What begins the tag of a call, before its attributes."""
    invoke_end: str
    parameter: str
    parameter_end: str
    tag_end: str = ">"


class InvokeParser(ArgumentsScript):
    """Reads blocks of calls."""

    def __init__(self, tags: InvokeTags, tools: Sequence[Tool]) -> None:
        self._tags = tags
        self._types = ArgumentTypes(tools)
        self._tag_end = Stops(tags.tag_end)
        self._in_block = Stops(tags.invoke, *tags.block_ends)
        self._in_invoke = Stops(tags.parameter, tags.invoke_end, *tags.block_ends)
        self._value_end = Stops(tags.parameter_end)
        super().__init__()

    def types_of(self, tool: str, attributes: Mapping[str, str]) -> frozenset[str]:
        """The types of a parameter, as its tag or the schema says."""
        return self._types.of(tool, attributes["name"])

    def script(self) -> Script[None]:
        blocks = Stops(*self._tags.blocks)
        while block := (yield from self.copy_until(blocks, self.show_text)):
            yield from self.block(block)

    def block(self, begin: str) -> Script[None]:
        """A block after its first tag; its text outside calls is shown only if it has no call."""
        written, has_calls = begin, False
        while True:
            text, stop = yield from self.read_until(self._in_block)
            written += text + stop
            if stop != self._tags.invoke:
                break
            tag, end = yield from self.read_until(self._tag_end)
            written += tag + end
            name = attributes_of(tag).get("name", "")
            if not end or not name:
                continue
            has_calls = True
            stop = yield from self._invoke(name, is_empty=tag.endswith("/"))
            if not stop or stop in self._tags.block_ends:
                return
        if not stop:
            self.leave_out_call()
        elif not has_calls and written != begin + stop:
            self.show_text(written)

    def _invoke(self, name: str, *, is_empty: bool) -> Script[str]:
        """A call after its tag; returns its last tag."""
        self.begin_arguments(name)
        stop = self._tags.invoke_end
        if not is_empty:
            stop = (yield from self.read_until(self._in_invoke))[1]
            while stop == self._tags.parameter:
                stop = yield from self._parameter(name)
        if stop:
            self.end_arguments()
        return stop

    def _parameter(self, tool: str) -> Script[str]:
        """A parameter; returns what follows it."""
        tag, end = yield from self.read_until(self._tag_end)
        attributes = attributes_of(tag)
        if not end:
            return ""
        if "name" in attributes:
            self.begin_argument(attributes["name"])
            types = self.types_of(tool, attributes)
            if not (yield from self.copy_value(types, self._value_end)):
                return ""
        return (yield from self.read_until(self._in_invoke))[1]


def attributes_of(tag: str) -> dict[str, str]:
    """The attributes of a tag."""
    return {match[1]: match[2] or match[3] or "" for match in _ATTRIBUTE.finditer(tag)}


def invoke_grammar(
    tags: InvokeTags,
    rules: CallRules,
    tools: Sequence[Tool],
    *,
    required: bool,
    parallel: bool,
) -> str:
    """A grammar of blocks of calls."""
    calls = [
        rules.symbols(f'{tags.invoke}name="{tool.name}"{tags.tag_end}\n')
        + f" {rules.arguments(tool, required=required)} "
        + rules.symbols(f"{tags.invoke_end}\n")
        for tool in tools
    ]
    body = repeated(one_of(calls), "", parallel=parallel)
    end = rules.symbols(tags.block_ends[0])
    block = rules.symbols("\n") + f" {body} {end}"
    # Several calls are in one block.
    return call_grammar(rules, Calls(tags.blocks[0], block), required=required, parallel=False)
