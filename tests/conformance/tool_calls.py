"""Replays the fixtures of canitoolcall, a public suite of model outputs, through our formats."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from canitoolcall.checks import case_status, run_checks
from canitoolcall.chunking import DEFAULT_STRATEGIES, ChunkStrategy, split
from canitoolcall.fixtures import (
    Family,
    Fixture,
    default_fixtures_dir,
    load_families,
    load_fixtures,
)
from canitoolcall.results import Observation, ParsedToolCall, ParseResult, Status

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.parts import (
    ArgumentsPart,
    CallPart,
    OutputParser,
    Part,
    ReasoningPart,
    TextPart,
)
from mlxmesh_generation.parsers.registry import REASONING_FORMATS, TOOL_FORMATS
from tests.conformance.deviations import DEVIATIONS
from tests.conformance.models import formats_of

# One character at a time, which the suite would not count under its own name.
_CHARACTERS = ChunkStrategy("rand", seed=0, max_group=1)


@dataclass(frozen=True)
class Case:
    """A fixture, and what came of it."""

    fixture: Fixture
    tool_format: str
    reasoning_format: str
    status: Status
    problems: tuple[str, ...]

    @property
    def passes(self) -> bool:
        return self.status in (Status.PASS, Status.SOFT_PASS)


@cache
def cases() -> tuple[Case, ...]:
    """Every fixture whose formats we know."""
    return tuple(_cases())


def known_families() -> list[str]:
    return sorted({case.fixture.family for case in cases()})


def unknown() -> list[str]:
    """The fixtures whose formats we do not know."""
    known = {case.fixture.id for case in cases()}
    return sorted(fixture.id for fixture in _fixtures() if fixture.id not in known)


def _fixtures() -> list[Fixture]:
    return load_fixtures([default_fixtures_dir()])


def _cases() -> Iterator[Case]:
    families = load_families()
    for fixture in _fixtures():
        tool_format, reasoning_format = formats_of(fixture)
        if tool_format in TOOL_FORMATS and reasoning_format in {"", *REASONING_FORMATS}:
            yield _case(fixture, families[fixture.family], tool_format, reasoning_format)


def _case(fixture: Fixture, family: Family, tool_format: str, reasoning_format: str) -> Case:
    reference = family.reference_for(fixture.reference_model)
    prompt = fixture.generation_prompt
    if prompt is None:
        prompt = reference.default_generation_prompt if reference is not None else ""

    def parse(pieces: Iterable[str]) -> ParseResult:
        parser = _parser(fixture, prompt or "", tool_format, reasoning_format)
        return _result(_parts(parser, pieces))

    units = list(_units(fixture.raw_output, family.markers))
    streams = {
        strategy.id: parse("".join(group) for group in split(units, strategy, set(family.markers)))
        for strategy in DEFAULT_STRATEGIES
    }
    streams[_CHARACTERS.id] = parse(fixture.raw_output)
    rows = run_checks(fixture, family, Observation(parse([fixture.raw_output]), streams))
    problems = {
        f"{row.check}: {row.detail}" for row in rows if row.status in (Status.FAIL, Status.ERROR)
    }
    return Case(fixture, tool_format, reasoning_format, case_status(rows), tuple(sorted(problems)))


def _parser(fixture: Fixture, prompt: str, tool_format: str, reasoning_format: str) -> OutputParser:
    answer = TOOL_FORMATS[tool_format].parser(_tools(fixture))
    if not reasoning_format:
        return answer
    reasoning = REASONING_FORMATS[reasoning_format]
    return reasoning.parser(answer, is_open=reasoning.is_open(prompt))


def _tools(fixture: Fixture) -> list[Tool]:
    return [
        Tool(
            name=function["name"],
            description=function.get("description") or "",
            parameters=json.dumps(function["parameters"]) if function.get("parameters") else "",
        )
        for function in (tool.get("function", tool) for tool in fixture.tools)
    ]


def _parts(parser: OutputParser, pieces: Iterable[str]) -> list[Part]:
    parts = [part for piece in pieces for part in parser.feed(piece)]
    return parts + parser.flush()


def _result(parts: Sequence[Part]) -> ParseResult:
    calls: list[tuple[str, list[str]]] = []
    for part in parts:
        if isinstance(part, CallPart):
            calls.append((part.name, []))
        elif isinstance(part, ArgumentsPart):
            calls[-1][1].append(part.text)
    return ParseResult(
        content="".join(part.text for part in parts if isinstance(part, TextPart)) or None,
        reasoning_content="".join(p.text for p in parts if isinstance(p, ReasoningPart)) or None,
        tool_calls=tuple(ParsedToolCall(name, "".join(texts)) for name, texts in calls),
    )


def _units(text: str, markers: Iterable[str]) -> Iterator[str]:
    """Markers whole, and other text in pieces such as tokens: the tokenizers are not at hand."""
    pattern = re.compile("|".join([*map(re.escape, sorted(markers, key=len, reverse=True)), _WORD]))
    return (match.group() for match in pattern.finditer(text))


_WORD = r"(?s: ?[^\W_]{1,6}|.)"


def documented(text: str) -> str:
    """A document with the results between its marks replaced."""
    before, start, rest = text.partition(_START)
    _, end, after = rest.partition(_END)
    return before + start + "\n" + _results() + end + after


_START, _END = "<!-- results -->", "<!-- end of results -->"


def _results() -> str:
    columns = ("family", "formats", "fixtures", "pass", "pass but for white space", "deviations")
    lines = [_row(columns), _row(["---"] * len(columns))]
    for family in known_families():
        mine = [case for case in cases() if case.fixture.family == family]
        formats = ", ".join(sorted({f"`{case.tool_format}`" for case in mine}))
        count = Counter(case.status for case in mine)
        passes = (count[Status.PASS], count[Status.SOFT_PASS])
        lines.append(_row([family, formats, len(mine), *passes, len(mine) - sum(passes)]))
    lines.append("")
    for reason, fixtures in _by_reason().items():
        number = f"{len(fixtures)} fixture{'s' if len(fixtures) > 1 else ''}"
        lines += [f"{reason} {number}:", ""]
        lines += [*(f"- {fixture}" for fixture in fixtures), ""]
    return "\n".join(lines)


def _by_reason() -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for fixture, reason in sorted(DEVIATIONS.items()):
        found.setdefault(reason, []).append(fixture)
    return found


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
