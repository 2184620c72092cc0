"""A small format of output: ((reasoning)), text, and [[name#id:arguments]] for calls."""

from mlxmesh_generation.parsers.parts import (
    ArgumentsPart,
    CallPart,
    OutputParser,
    Part,
    Reading,
    ReasoningPart,
    TextPart,
)

_MARKS = {
    "text": ("((", "[["),
    "reasoning": ("))",),
    "name": (":",),
    "arguments": ("]]",),
}


class ToyParser:
    """Satisfies OutputParser."""

    def __init__(self, *, open_call: str = "[[", is_open: bool = False) -> None:
        """is_open: whether the prompt ended inside reasoning."""
        self._marks = {**_MARKS, "text": ("((", open_call)}
        self._state = "reasoning" if is_open else "text"
        self._held = ""

    @property
    def in_reasoning(self) -> bool:
        return self._state == "reasoning"

    def feed(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        while (found := self._next_mark()) is not None:
            start, mark = found
            parts += self._part(self._held[:start], whole=True)
            self._held = self._held[start + len(mark) :]
            self._enter(mark)
        if self._state != "name":
            shown = len(self._held) - self._beginning()
            parts += self._part(self._held[:shown], whole=False)
            self._held = self._held[shown:]
        return parts

    def flush(self) -> list[Part]:
        held, self._held = self._held, ""
        return [TextPart(held)] if self._state == "name" and held else self._part(held, whole=False)

    def _next_mark(self) -> tuple[int, str] | None:
        places = [(self._held.find(mark), mark) for mark in self._marks[self._state]]
        return min((place for place in places if place[0] >= 0), default=None)

    def _beginning(self) -> int:
        """The length of the longest end that begins a mark."""
        marks = self._marks[self._state]
        lengths = range(min(len(self._held), max(map(len, marks)) - 1), 0, -1)
        for length in lengths:
            if any(mark.startswith(self._held[-length:]) for mark in marks):
                return length
        return 0

    def _enter(self, mark: str) -> None:
        if self._state == "text":
            self._state = "reasoning" if mark == "((" else "name"
        else:
            self._state = "arguments" if self._state == "name" else "text"

    def _part(self, text: str, *, whole: bool) -> list[Part]:
        if self._state == "name":
            name, _, call_id = text.partition("#")
            return [CallPart(name, call_id)] if whole else []
        if not text:
            return []
        if self._state == "reasoning":
            return [ReasoningPart(text)]
        return [ArgumentsPart(text) if self._state == "arguments" else TextPart(text)]


def toy_reading(*, open_call: str = "[[", is_open: bool = False) -> Reading:
    """`open_call` may be the text of a special token."""

    def new_parser() -> OutputParser:
        return ToyParser(open_call=open_call, is_open=is_open)

    return Reading(new_parser, frozenset({open_call}))
