"""Grammars of calls in JSON. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers import grammars
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.grammars import literal, marker
from mlxmesh_generation.parsers.marked import Shape


@dataclass(frozen=True)
class Written:
    """How a grammar makes calls: as the model's template writes them."""

    start: str = ""
    """The marker before calls; empty if there is none."""
    end: str = ""
    """The marker after calls."""
    before: str = ""
    """Between the start marker and the calls."""
    after: str = ""
    """Between the calls and the end marker."""
    between: str = ""
    """Between an end marker and the next start marker."""
    separator: str = ""
    """Between calls that follow one start marker."""
    brackets: tuple[str, str] = ("", "")
    """Around the calls if they are one list."""
    id_key: str = ""
    """The key of a number for each call; empty if there is none."""
    name_key: str = "name"
    arguments_key: str = "arguments"
    around_text: tuple[str, str] = ("", "")
    """The special tokens before and after an answer."""


class JsonGrammar:
    """The grammar of one request."""

    def __init__(
        self, written: Written, shape: Shape, token_id: TokenId, *, parallel: bool
    ) -> None:
        self._written = written
        self._shape = shape
        self._token_id = token_id
        self._inside = parallel and bool(written.separator)
        self._outside = parallel and not written.separator

    def text(self, tools: Sequence[Tool], *, required: bool) -> str:
        rules = self._start() if required else self._start_with_text()
        opening, closing = map(literal, self._written.brackets)
        several = grammars.repeated("call", self._written.separator, parallel=self._inside)
        rules["calls"] = grammars.sequence(opening, several, closing)
        rules["call"] = " | ".join(f"call_{index}" for index in range(len(tools)))
        for index, tool in enumerate(tools):
            rules |= self._call(index, tool, required=required)
        return grammars.rules(rules)

    def _start(self) -> dict[str, str]:
        start = self._marker(self._written.start)
        return {
            "start": grammars.repeated("marked", self._written.between, parallel=self._outside),
            "marked": grammars.sequence(start, self._body()),
        }

    def _start_with_text(self) -> dict[str, str]:
        starts, written = self._shape.starts, self._written
        if not written.start:
            bare = "".join(map("\\{}".format, self._shape.bare))
            text = grammars.without(starts, regex=rf"[ \t\r\n]*[^ \t\r\n{bare}](?s:.*)")
            return {"start": f'TEXT | {self._body()} | ""', "TEXT": text}
        rules = grammars.text_with_calls(
            written.start, self._body(), starts, parallel=self._outside, token_id=self._token_id
        )
        opening, closing = map(self._special, written.around_text)
        if opening or closing:
            rules["text"] = f'"" | {grammars.sequence(opening, "TEXT", closing)} | TEXT'
        return rules

    def _body(self) -> str:
        written = self._written
        return grammars.sequence(
            literal(written.before), "calls", literal(written.after), self._marker(written.end)
        )

    def _call(self, index: int, tool: Tool, *, required: bool) -> dict[str, str]:
        written = self._written
        middle = f'"{written.name_key}": "{tool.name}", "{written.arguments_key}": '
        beginning = literal("{" + middle)
        if written.id_key:
            opening, following = literal(f'{{"{written.id_key}": "'), literal(f'", {middle}')
            beginning = grammars.sequence(opening, "/[0-9]{1,3}/", following)
        return {
            f"call_{index}": f'{beginning} arguments_{index} "}}"',
            f"arguments_{index}": grammars.arguments(tool, required=required),
        }

    def _marker(self, text: str) -> str:
        return marker(text, self._token_id) if text else ""

    def _special(self, text: str) -> str:
        token_id = self._token_id(text) if text else None
        return "" if token_id is None else f"<[{token_id}]>"
