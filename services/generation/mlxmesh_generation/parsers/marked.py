"""Reads calls in JSON between markers, or as a whole output. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlxmesh_generation.parsers.json_lists import JsonCalls
from mlxmesh_generation.parsers.json_text import Progress
from mlxmesh_generation.parsers.markers import Markers
from mlxmesh_generation.parsers.parts import ArgumentsPart, Part
from mlxmesh_generation.parsers.text_state import StateParser, TextAroundCalls


@dataclass(frozen=True)
class Shape:
    """Where calls are in a text."""

    starts: Sequence[str]
    """Before calls."""
    ends: Sequence[str] = ()
    """After calls; may be missing."""
    bare: str = ""
    """The characters that calls without a marker begin with, at the beginning of an output."""
    strips: bool = False
    """Whether white space between text and a call belongs to neither."""
    is_certain: bool = True
    """Whether a start marker is never meant as text."""


class MarkedCalls(StateParser):
    """The parser of a format whose calls are JSON.

    What follows a start marker and is no call is text, with the marker. An output that ends after
    a marker, and before it is known whether a call follows, ends before the marker.
    """

    def __init__(self, shape: Shape, calls: Callable[[bool], JsonCalls]) -> None:
        """`calls` gets whether a marker came before."""
        super().__init__(self._read_beginning if shape.bare else self._read_text)
        self._shape = shape
        self._new_calls = calls
        self._text = TextAroundCalls(strips=shape.strips)
        self._starts = Markers.of(*shape.starts) if shape.starts else None
        self._ends = Markers.of(*shape.ends) if shape.ends else None
        self._either = Markers.of(*shape.starts, *shape.ends) if self._starts else self._ends
        self._calls = calls(False)
        self._marker = ""
        self._end_due = False
        """Whether an end marker may still follow the last call."""

    def flush(self) -> list[Part]:
        rest = self._buffer.take_all()
        if self._state == self._read_tail:
            return [ArgumentsPart(rest)] if rest else []
        if self._state != self._read_calls:
            return [*self._text.add(rest), *self._text.flush()]
        parts = self._calls.flush()
        if self._marker and self._shape.is_certain:
            parts += self._text.begin_call()
        elif not self._calls.any_begun:
            parts += self._text.add(self._marker + self._calls.raw + rest)
        return [*parts, *self._text.flush()]

    def _read_beginning(self) -> list[Part] | None:
        space = self._buffer.take_space()
        parts = self._text.add(space)
        if not self._buffer.text:
            return parts or None
        is_bare = self._buffer.text[0] in self._shape.bare
        self._state = self._read_calls if is_bare else self._read_text
        return parts

    def _read_text(self) -> list[Part] | None:
        markers = self._either if self._end_due else self._starts
        if markers is None:
            before, marker = self._buffer.take_all(), ""
        else:
            before, marker = self._buffer.take_until(markers)
        parts = self._text.add(before)
        if marker in self._shape.ends:
            self._end_due = False
        elif marker:
            self._marker, self._calls, self._state = marker, self._new_calls(True), self._read_calls
        elif not before:
            return None
        return parts

    def _read_calls(self) -> list[Part] | None:
        if not self._buffer.text:
            return None
        begun = self._calls.any_begun
        parts, length = self._calls.read(self._buffer.text)
        self._buffer.take(length)
        if self._calls.any_begun and not begun:
            parts = [*self._text.begin_call(), *parts]
        if self._calls.progress is not Progress.OPEN:
            parts += self._end_calls()
        return parts

    def _end_calls(self) -> list[Part]:
        if self._calls.progress is Progress.DONE:
            self._state = self._read_after
            return []
        if self._calls.arguments_open:
            self._state = self._read_tail
            return self._calls.flush()
        self._state = self._read_text
        self._end_due = self._calls.any_begun and bool(self._marker and self._shape.ends)
        text = ("" if self._calls.any_begun else self._marker) + self._calls.raw
        self._marker = ""
        return self._text.add(text)

    def _read_tail(self) -> list[Part] | None:
        """What follows broken arguments belongs to them, up to a marker."""
        if self._either is None:
            rest = self._buffer.take_all()
            return [ArgumentsPart(rest)] if rest else None
        before, marker = self._buffer.take_until(self._either)
        parts: list[Part] = [ArgumentsPart(before)] if before else []
        if marker:
            self._end_due = False
            self._state = self._read_text
            if marker in self._shape.starts:
                self._marker, self._calls = marker, self._new_calls(True)
                self._state = self._read_calls
        return parts if parts or marker else None

    def _read_after(self) -> list[Part] | None:
        """An end marker right after the calls."""
        parts = self._text.add(self._buffer.take_space())
        if not self._buffer.text:
            return parts or None
        ends = self._ends if self._marker else None
        found = self._buffer.take_marker(ends) if ends is not None else ""
        if found is None:
            return parts or None
        if found:
            self._text.end_call()
        self._end_due = ends is not None and not found
        self._marker = ""
        self._state = self._read_text
        return parts
