"""Tool calls of MiniMax M2: `<invoke name="NAME"><parameter name="KEY">value`. Pure."""

from collections.abc import Sequence

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.invokes import InvokeParser, InvokeTags
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


class MiniMax:
    """The format `minimax`."""

    name = "minimax"
    markers = frozenset({_OPEN, _CLOSE})

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return InvokeParser(TAGS, tools)
