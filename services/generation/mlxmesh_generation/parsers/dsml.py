"""Tool calls of DeepSeek V3.2 and later: tags with the word DSML. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.argument_grammars import (
    CallRules,
    Writing,
)
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.invokes import InvokeParser, InvokeTags, invoke_grammar
from mlxmesh_generation.parsers.parts import OutputParser
from mlxmesh_generation.parsers.typed_values import ANY_TYPE

_WORD = "｜DSML｜"
_NO_STRING = ANY_TYPE - {"string"}


class _Parser(InvokeParser):
    def types_of(self, tool: str, attributes: Mapping[str, str]) -> frozenset[str]:
        match attributes.get("string"):
            case "true":
                return frozenset({"string"})
            case "false":
                return _NO_STRING
            case _:
                return super().types_of(tool, attributes)


@dataclass(frozen=True)
class Dsml:
    """A format of DeepSeek with DSML tags."""

    name: str
    block: str
    """The word of the tag around calls."""
    space: str = ""
    """Between DSML and the word of a tag."""

    @property
    def markers(self) -> frozenset[str]:
        return frozenset({_WORD})

    @property
    def tags(self) -> InvokeTags:
        return InvokeTags(
            blocks=(self._begin(self.block) + ">",),
            block_ends=(self._end(self.block),),
            invoke=self._begin("invoke "),
            invoke_end=self._end("invoke"),
            parameter=self._begin("parameter "),
            parameter_end=self._end("parameter"),
        )

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return _Parser(self.tags, tools)

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        tags = self.tags
        writing = Writing(
            before_string=f'{tags.parameter}name="NAME" string="true">',
            before_json=f'{tags.parameter}name="NAME" string="false">',
            after=f"{tags.parameter_end}\n",
        )
        rules = CallRules(writing, self.markers, token_id)
        return invoke_grammar(tags, rules, tools, required=required, parallel=parallel)

    def _begin(self, word: str) -> str:
        return f"<{_WORD}{self.space}{word}"

    def _end(self, word: str) -> str:
        return f"</{_WORD}{self.space}{word}>"


DEEPSEEK_V32 = Dsml("deepseek_v32", "function_calls")
DEEPSEEK_V4 = Dsml("deepseek_v4", "tool_calls")
DEEPSEEK_V41 = Dsml("deepseek_v41", "calls", space=" ")
