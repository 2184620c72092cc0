"""Tool calls of Kimi K2: JSON between special tokens, with the name in the id. Pure."""

import re
from collections.abc import Sequence

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.grammars import arguments, literal, marker
from mlxmesh_generation.parsers.parts import OutputParser
from mlxmesh_generation.parsers.sections import Section, SectionParser, section_grammar

_SECTION = Section(
    begin="<|tool_calls_section_begin|>",
    end="<|tool_calls_section_end|>",
    call_begin="<|tool_call_begin|>",
    separator="<|tool_call_argument_begin|>",
    call_end="<|tool_call_end|>",
)
_ID = re.compile(r"(?:functions\.)?(?P<name>.+?)(?::\d+)?")


class _Parser(SectionParser):
    def name_of(self, head: str) -> tuple[str, str]:
        call_id = head.strip()
        match = _ID.fullmatch(call_id)
        return (match["name"] if match else ""), call_id


class KimiK2:
    """The format `kimi_k2`."""

    name = "kimi_k2"
    markers = _SECTION.markers

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return _Parser(_SECTION)

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        separator = marker(_SECTION.separator, token_id)
        calls = [
            f"{literal(f'functions.{tool.name}:')} /[0-9]+/ {separator}"
            f" {arguments(tool, required=required)}"
            for tool in tools
        ]
        return section_grammar(
            _SECTION, calls, required=required, parallel=parallel, token_id=token_id
        )


KIMI_K2 = KimiK2()
