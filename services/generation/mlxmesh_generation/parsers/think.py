"""Reasoning between two markers, before the answer. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from mlxmesh_generation.parsers.markers import SPACE, Markers, TextBuffer
from mlxmesh_generation.parsers.parts import OutputParser, Part, ReasoningPart


@dataclass(frozen=True)
class Think:
    """Reasoning such as `<think>...</think>`.

    It is found only at the beginning of an output. White space inside the markers and before the
    answer is left out, as templates leave it out.
    """

    name: str
    start: str
    end: str
    implicit: bool = False
    """Whether an output begins in reasoning although no marker says so."""
    calls: tuple[str, ...] = ()
    """Beginnings of tool calls that some models write without the end marker before them."""

    @property
    def markers(self) -> frozenset[str]:
        return frozenset((self.start, self.end))

    def is_open(self, prompt: str) -> bool:
        prompt = prompt.rstrip()
        return prompt.endswith(self.start) or (self.implicit and not prompt.endswith(self.end))

    def parser(self, answer: OutputParser, *, is_open: bool) -> OutputParser:
        return ThinkParser(self, answer, is_open=is_open)


class ThinkParser:
    """A start marker inside reasoning that is open is left out where it is the first text; an end
    marker where the answer would begin is left out too.
    """

    def __init__(self, form: Think, answer: OutputParser, *, is_open: bool) -> None:
        self._answer = answer
        self._start = Markers.of(form.start)
        self._ends = Markers.of(form.end, *form.calls)
        self._either = Markers.of(form.start, form.end)
        self._end = form.end
        self._buffer = TextBuffer()
        self._space = ""
        self.in_reasoning = is_open
        self._state: Callable[[], list[Part] | None] = (
            self._read_opened if is_open else self._read_beginning
        )

    def feed(self, text: str) -> list[Part]:
        if self._state == self._read_answer:
            return self._answer.feed(text)
        self._buffer.add(text)
        parts: list[Part] = []
        # A state returns None once it needs more text.
        while (fresh := self._state()) is not None:
            parts += fresh
        return parts

    def flush(self) -> list[Part]:
        rest = self._buffer.take_all()
        if self.in_reasoning:
            space, self._space = self._space, ""
            return self._reasoning(space + rest) + self._answer.flush()
        space, self._space = self._space, ""
        return [*self._answer.feed(space + rest), *self._answer.flush()]

    def _read_beginning(self) -> list[Part] | None:
        """Before the answer and outside reasoning."""
        self._space += self._buffer.take_space()
        if not self._buffer.text:
            return None
        marker = self._buffer.take_marker(self._either)
        if marker is None:
            return None
        if marker:
            self._space = ""
            self.in_reasoning = marker != self._end
            self._state = self._read_reasoning_start if self.in_reasoning else self._read_between
            return []
        space, self._space = self._space, ""
        self._state = self._read_answer
        return self._answer.feed(space)

    def _read_between(self) -> list[Part] | None:
        """After reasoning: more reasoning may follow white space, which is left out."""
        self._buffer.take_space()
        if not self._buffer.text:
            return None
        self._state = self._read_beginning
        return []

    def _read_opened(self) -> list[Part] | None:
        """The beginning of reasoning that the prompt opened."""
        self._buffer.take_space()
        marker = self._buffer.take_marker(self._start) if self._buffer.text else None
        if marker is None:
            return None
        self._state = self._read_reasoning_start if marker else self._read_reasoning
        return []

    def _read_reasoning_start(self) -> list[Part] | None:
        self._buffer.take_space()
        if not self._buffer.text:
            return None
        self._state = self._read_reasoning
        return []

    def _read_reasoning(self) -> list[Part] | None:
        before, marker = self._buffer.take_until(self._ends)
        if not before and not marker:
            return None
        text = self._space + before
        shown = text.rstrip(SPACE)
        self._space = "" if marker else text[len(shown) :]
        if marker:
            self.in_reasoning = False
            self._state = self._read_between
            # The beginning of a call belongs to the answer.
            self._buffer.text = ("" if marker == self._end else marker) + self._buffer.text
        return self._reasoning(shown)

    def _read_answer(self) -> list[Part] | None:
        text = self._buffer.take_all()
        return self._answer.feed(text) if text else None

    def _reasoning(self, text: str) -> list[Part]:
        return [ReasoningPart(text)] if text else []
