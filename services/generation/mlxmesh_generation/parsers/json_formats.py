"""The formats whose calls are JSON objects with a name and arguments. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.json_calls import CallKeys
from mlxmesh_generation.parsers.json_grammars import JsonGrammar, Written
from mlxmesh_generation.parsers.json_lists import JsonCalls
from mlxmesh_generation.parsers.marked import MarkedCalls, Shape
from mlxmesh_generation.parsers.parts import OutputParser

_KEYS = CallKeys()


@dataclass(frozen=True)
class JsonFormat:
    """Calls such as `{"name": "f", "arguments": {"a": 1}}`."""

    name: str
    shape: Shape
    written: Written
    keys: CallKeys = _KEYS
    separators: str = ""
    only_known: bool = False
    """Whether objects after a marker are calls only with a name that is one of the tools'."""
    fallback: Written | None = None
    """How a model writes whose tokenizer does not have the start marker as a special token."""

    @property
    def markers(self) -> frozenset[str]:
        return frozenset((*self.shape.starts, *self.shape.ends))

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        names = frozenset(tool.name for tool in tools)

        def calls(is_marked: bool) -> JsonCalls:
            known = None if is_marked and not self.only_known else names
            return JsonCalls(self.keys, known, separators=self.separators)

        return MarkedCalls(self.shape, calls)

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        written = self.written
        if self.fallback is not None and token_id(written.start) is None:
            written = self.fallback
        grammar = JsonGrammar(written, self.shape, token_id, parallel=parallel)
        return grammar.text(tools, required=required)


HERMES = JsonFormat(
    "hermes",
    Shape(starts=("<tool_call>",), ends=("</tool_call>",), strips=True),
    Written(start="<tool_call>", before="\n", after="\n", end="</tool_call>", between="\n"),
)
LLAMA3_JSON = JsonFormat(
    "llama3_json",
    Shape(starts=("<|python_tag|>",), bare="{"),
    Written(arguments_key="parameters", separator="; "),
    separators=";",
)
GRANITE = JsonFormat(
    "granite",
    Shape(
        starts=("<|tool_call|>", "<tool_call>", "<function_call>"),
        ends=("</tool_call>",),
        bare="[",
        strips=True,
    ),
    Written(start="<|tool_call|>", brackets=("[", "]"), separator=", "),
    fallback=HERMES.written,
)
COMMAND = JsonFormat(
    "command",
    Shape(
        starts=("<|START_ACTION|>", "Action:```json", "Action: ```json"),
        ends=("<|END_ACTION|>", "```"),
        strips=True,
    ),
    Written(
        start="<|START_ACTION|>",
        end="<|END_ACTION|>",
        brackets=("[\n    ", "\n]"),
        separator=",\n    ",
        id_key="tool_call_id",
        name_key="tool_name",
        arguments_key="parameters",
        around_text=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    keys=CallKeys(
        name=("tool_name", "name"),
        # Its ids count from 0 in every output, so they are not unique in a conversation.
        call_id=(),
        ignored=("type", "id", "tool_call_id"),
    ),
)
JSON = JsonFormat(
    "json",
    Shape(starts=("```json",), ends=("```",), bare="[{", strips=True, is_certain=False),
    Written(brackets=("[", "]"), separator=", "),
    only_known=True,
)
