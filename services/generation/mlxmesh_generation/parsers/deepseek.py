"""Tool calls of DeepSeek V3, R1 and V3.1: JSON between special tokens. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.grammars import arguments, literal, marker
from mlxmesh_generation.parsers.parts import OutputParser
from mlxmesh_generation.parsers.sections import Section, SectionParser, section_grammar

_V31 = Section(
    begin="<｜tool▁calls▁begin｜>",
    end="<｜tool▁calls▁end｜>",
    call_begin="<｜tool▁call▁begin｜>",
    separator="<｜tool▁sep｜>",
    call_end="<｜tool▁call▁end｜>",
)
_V3 = replace(_V31, fence="```json")


@dataclass(frozen=True)
class DeepSeek:
    """A format of DeepSeek with sections."""

    name: str
    section: Section

    @property
    def markers(self) -> frozenset[str]:
        return self.section.markers

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return SectionParser(self.section)

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        separator = marker(self.section.separator, token_id)
        calls: list[str] = []
        for tool in tools:
            json = arguments(tool, required=required)
            if self.section.fence:
                name = literal(f"{tool.name}\n{self.section.fence}\n")
                calls.append(f'"function" {separator} {name} {json} "\\n```"')
            else:
                calls.append(f"{literal(tool.name)} {separator} {json}")
        return section_grammar(
            self.section,
            calls,
            separator="\n" if self.section.fence else "",
            required=required,
            parallel=parallel,
            token_id=token_id,
        )


DEEPSEEK_V3 = DeepSeek("deepseek_v3", _V3)
DEEPSEEK_V31 = DeepSeek("deepseek_v31", _V31)
