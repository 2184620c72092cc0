"""Tool calls of MiniMax M2: `<invoke name="NAME"><parameter name="KEY">value`. Pure."""

from collections.abc import Sequence

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.argument_grammars import (
    CallRules,
    Writing,
)
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.invokes import InvokeParser, InvokeTags, invoke_grammar
from mlxmesh_generation.parsers.parts import OutputParser

_OPEN, _CLOSE = "<minimax:tool_call>", "</minimax:tool_call>"
TAGS = InvokeTags(
    blocks=(_OPEN,),
    block_ends=(_CLOSE,),
    invoke="<invoke ",
    invoke_end="</invoke>",
    parameter="<parameter ",
    parameter_end="</parameter>",
)


_WRITING = Writing(
    before_string='<parameter name="NAME">',
    after=f"{TAGS.parameter_end}\n",
    forbidden=(TAGS.invoke_end, _OPEN, _CLOSE),
)


class MiniMax:
    """The format `minimax`."""

    name = "minimax"
    markers = frozenset({_OPEN, _CLOSE})

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return InvokeParser(TAGS, tools)

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        rules = CallRules(_WRITING, self.markers, token_id)
        return invoke_grammar(TAGS, rules, tools, required=required, parallel=parallel)


MINIMAX = MiniMax()
