"""Rules of calls whose arguments are written one by one, in llguidance's dialect of Lark. Pure."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.grammars import literal
from mlxmesh_generation.parsers.typed_values import Schema
from mlxmesh_generation.parsers.value_grammars import Argument, Text, Value, arguments_of


@dataclass(frozen=True)
class Writing:
    """How a format writes one argument; NAME stands for its name."""

    before_string: str
    after: str
    before_json: str = ""
    """Before a value that is no string, in a format that shows the difference."""
    forbidden: tuple[str, ...] = ()
    """Texts that a value without JSON syntax must not contain."""

    optional_lines: bool = False
    """Whether models of the format also write no line breaks between markers."""

    @property
    def is_typed(self) -> bool:
        return bool(self.before_json)

    def before(self, name: str, *, is_json: bool) -> str:
        begin = self.before_json if is_json and self.is_typed else self.before_string
        return begin.replace("NAME", name)


class CallRules:
    """Collects the rules of the arguments of some tools."""

    def __init__(self, writing: Writing, markers: frozenset[str], token_id: TokenId) -> None:
        self.rules: dict[str, str] = {}
        self._writing = writing
        self._markers = [text for text in sorted(markers) if token_id(text) is not None]
        self._token_id = token_id

    def symbols(self, text: str) -> str:
        """A text in which markers are their special tokens."""
        return " ".join(self.symbol_list(text))

    def symbol_list(self, text: str) -> list[str]:
        lines = ["\n"] if self._writing.optional_lines else []
        pieces = re.split(f"({'|'.join(map(re.escape, [*self._markers, *lines]))})", text)
        if not self._markers and not lines:
            pieces = [text]
        return [self._symbol(piece) for piece in pieces if piece]

    def arguments(self, tool: Tool, *, required: bool) -> str:
        """The arguments of a tool: by its schema if they are to satisfy it, else any."""
        if not required and not tool.strict:
            return f"({self._any_argument()})*"
        arguments = arguments_of(tool, typed=self._writing.is_typed)
        return " ".join(self._argument(argument) for argument in arguments)

    def _any_argument(self) -> str:
        begin, end = self._writing.before_string.split("NAME")
        value = self._value(Value(text=Text()))
        return f"{self.symbols(begin)} {_NAME} {self.symbols(end)} {value}"

    def _argument(self, argument: Argument) -> str:
        value = argument.value
        options: list[str] = []
        if value.text is not None or value.texts:
            before = self._writing.before(argument.name, is_json=False)
            options.append(f"{self.symbols(before)} {self._value(value)}")
        if value.json is not None:
            before = self._writing.before(argument.name, is_json=True)
            options.append(f"{self.symbols(before)} {self._json(value.json)}")
        rule = " | ".join(options)
        return f"({rule})" if argument.is_required else f"({rule})?"

    def _json(self, schema: Schema) -> str:
        return f"%json {json.dumps(schema)} {self.symbols(self._writing.after)}"

    def _value(self, value: Value) -> str:
        """A value without JSON syntax, with what ends it."""
        if value.text is None:
            texts = " | ".join(literal(text) for text in value.texts if text) or '""'
            optional = "?" if "" in value.texts and any(value.texts) else ""
            return f"({texts}){optional} {self.symbols(self._writing.after)}"
        after = self._writing.after
        special = min(
            (after.find(text) for text in self._markers if text in after), default=len(after)
        )
        end = after[:special].rstrip()
        length = "*" if value.text == Text() else _length(value.text)
        return f"{self._terminal(f'(?s:.{length})', end)} {self.symbols(after[len(end) :])}"

    def _terminal(self, regex: str, end: str) -> str:
        """A rule of text up to its end, which the text does not contain."""
        forbidden = [text for text in self._writing.forbidden if text not in self._markers]
        if not end:
            return self._named(f"/{regex}/{excluding(forbidden)}", lazy=False)
        # The end comes last, and only there.
        early = end.strip()
        others = [text for text in forbidden if text not in end]
        nots = "|".join([rf"{escaped(early)}(?s:.)", *map(escaped, others)])
        return self._named(f"/{regex}{escaped(end)}/ & ~/(?s:.*)({nots})(?s:.*)/", lazy=True)

    def _named(self, terminal: str, *, lazy: bool) -> str:
        for name, body in self.rules.items():
            if body == terminal:
                return name.lower()
        name = f"VALUE_{len(self.rules)}"
        self.rules[name] = terminal
        self.rules[name.lower() + ("[lazy]" if lazy else "")] = name
        return name.lower()

    def _symbol(self, text: str) -> str:
        special = self._token_id(text) if text in self._markers else None
        if special is not None:
            return f"<[{special}]>"
        return literal(text) + ("?" if text == "\n" and self._writing.optional_lines else "")


_NAME = r"/[a-zA-Z0-9_.\-]+/"


def escaped(text: str) -> str:
    """A text inside a regular expression of Lark."""
    text = re.escape(text).replace("/", r"\/").replace("\\\n", r"\n")
    return text.replace(r"\ ", " ")


def excluding(texts: Collection[str]) -> str:
    """What a terminal ends with that contains none of these texts."""
    if not texts:
        return ""
    return f" & ~/(?s:.*)({'|'.join(map(escaped, texts))})(?s:.*)/"


def _length(text: Text) -> str:
    return f"{{{text.least},{'' if text.most is None else text.most}}}"


@dataclass(frozen=True)
class Calls:
    """How the calls of a format follow each other."""

    begin: str
    """The marker before a call or a block of calls."""
    body: str
    """The rule of what follows it."""
    separator: str = ""
    hidden: tuple[str, ...] = ()
    """Other texts that begin a call, which text must not contain."""


def call_grammar(rules: CallRules, calls: Calls, *, required: bool, parallel: bool) -> str:
    """A grammar of calls only, or of text and calls."""
    if required:
        call = f"{rules.symbols(calls.begin)} {calls.body}"
        return grammar(
            repeated(call, rules.symbols(calls.separator), parallel=parallel), rules.rules
        )
    begin = rules.symbol_list(calls.begin)
    start, named = text_before(begin, calls.body, calls.hidden, parallel=parallel)
    return grammar(start, {**named, **rules.rules})


def one_of(rules: Sequence[str]) -> str:
    """One of these alternatives."""
    return "(" + " | ".join(rules) + ")"


def repeated(rule: str, separator: str, *, parallel: bool) -> str:
    """A rule once, or several times if there may be several."""
    return f"{rule} ({separator} {rule})*" if parallel else rule


def grammar(start: str, rules: Mapping[str, str]) -> str:
    """A grammar with the rule `start`."""
    return "".join(f"{name}: {body}\n" for name, body in {"start": start, **rules}.items())


def text_before(
    symbols: Sequence[str], body: str, others: Sequence[str], *, parallel: bool
) -> tuple[str, dict[str, str]]:
    """The start rule of text in which each marker is followed by `body`, and its rules.

    symbols: the marker, as literals and special tokens. The text contains none of `others`.
    """
    times = "*" if parallel else "?"
    lead, rest = ("", symbols) if symbols[0].startswith("<[") else (symbols[0], symbols[1:])
    text = json.loads(lead) if lead else ""
    # A marker without a special token ends the text where it comes first. One that begins with
    # ordinary text ends it at its special token.
    lazy = bool(lead) and not rest
    excluded = [*others, *([text] if lazy else [])]
    rules = {
        "text": "TEXT",
        "TEXT": f"/(?s:.*)/{excluding(excluded)}",
        "opened" + ("[lazy]" if lazy else ""): "OPENED",
        "OPENED": f"/(?s:.*){escaped(text)}/{excluding(others)}",
    }
    return f"(opened {' '.join(rest)} {body}){times} text", rules
