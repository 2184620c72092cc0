"""Parsers that are written as scripts: straight code that waits where it needs more text. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mlxmesh_generation.parsers.json_text import JsonValue, Progress
from mlxmesh_generation.parsers.markers import Markers, TextBuffer
from mlxmesh_generation.parsers.parts import ArgumentsPart, CallPart, Part, ReasoningPart
from mlxmesh_generation.parsers.text_state import TextAroundCalls
from mlxmesh_generation.parsers.typed_values import StringPieces, as_json, quoted

_Result = TypeVar("_Result")
Script = Generator[None, None, _Result]
"""Code that pauses until there is more text, and returns a result."""
Show = Callable[[str], None]

# It belongs to no marker, so whatever stands before it is final.
_NOTHING_FOLLOWS = "\x00"


@dataclass(frozen=True, slots=True)
class Stop:
    """A text that ends something.

    With `before` it ends it only if one of these texts follows, after white space; an empty one
    stands for the end of the output.
    """

    text: str
    before: tuple[str, ...] = ()

    def holds(self, following: str, *, ended: bool) -> bool | None:
        """Whether it is a stop before `following`; None if more text decides."""
        if not self.before:
            return True
        following = following.lstrip()
        if any(text and following.startswith(text) for text in self.before):
            return True
        if ended:
            return not following and "" in self.before
        return None if any(text.startswith(following) for text in self.before) else False


class Stops:
    """Some stops that are looked for together."""

    def __init__(self, *stops: Stop | str) -> None:
        known = [stop if isinstance(stop, Stop) else Stop(stop) for stop in stops]
        self._stops = {stop.text: stop for stop in known}
        self._markers = Markers.of(*self._stops)

    def search(self, text: str, *, ended: bool) -> tuple[int, str]:
        """Where the first stop begins, and the stop.

        It is empty if there is none yet; before that place there will be none.
        """
        at = 0
        sought = text + _NOTHING_FOLLOWS if ended else text
        while (found := self._markers.search(sought[at:])) is not None:
            start, stop = at + found[0], found[1]
            holds = self._stops[stop].holds(text[start + len(stop) :], ended=ended)
            if holds is not False:
                return start, stop if holds else ""
            at = start + 1
        return len(text) - (0 if ended else self._markers.held(text)), ""


class ScriptedParser(ABC):
    """Runs a script over the text of one output."""

    def __init__(self, *, strips: bool) -> None:
        """With `strips`, white space between text and a call is no text."""
        self._buffer = TextBuffer()
        self._ended = False
        self._parts: list[Part] = []
        self._reasons = False
        self._text = TextAroundCalls(strips=strips)
        self._running = self.script()

    @property
    def in_reasoning(self) -> bool:
        return self._reasons

    def feed(self, text: str) -> list[Part]:
        self._buffer.add(text)
        return self._advanced()

    def flush(self) -> list[Part]:
        self._ended = True
        return self._advanced()

    @abstractmethod
    def script(self) -> Script[None]:
        """Reads the whole output; returns once it has ended."""

    def _advanced(self) -> list[Part]:
        next(self._running, None)
        if self._ended:
            self._parts += self._text.flush()
        parts, self._parts = self._parts, []
        return parts

    def wait(self) -> Script[bool]:
        """Waits for more text; returns whether there can be more."""
        if self._ended:
            return False
        yield
        return True

    def peek(self) -> Script[str]:
        """The next character; empty at the end."""
        while not self._buffer.text and (yield from self.wait()):
            pass
        return self._buffer.text[:1]

    def skip_space(self) -> Script[str]:
        """Takes white space and returns it."""
        space = ""
        while (yield from self.peek()).isspace():
            space += self._buffer.take_space()
        return space

    def take_marker(self, *texts: str) -> Script[str]:
        """Takes one of these texts if it comes next; else returns an empty text."""
        markers = Markers.of(*texts)
        while (taken := self._buffer.take_marker(markers)) is None:
            if not (yield from self.wait()):
                # What is left is shorter than a longer text that also begins so.
                return self._take_now(texts)
        return taken

    def copy_until(self, stops: Stops, show: Show) -> Script[str]:
        """Shows the text before a stop as it comes; returns the stop, empty at the end."""
        while True:
            ended = self._ended
            length, stop = stops.search(self._buffer.text, ended=ended)
            if length:
                show(self._buffer.take(length))
            if stop or ended:
                return self._buffer.take(len(stop))
            yield from self.wait()

    def read_until(self, stops: Stops) -> Script[tuple[str, str]]:
        """The text before a stop, and the stop; it is empty at the end."""
        pieces: list[str] = []
        stop = yield from self.copy_until(stops, pieces.append)
        return "".join(pieces), stop

    def read_before(self, stops: Stops) -> Script[str]:
        """The text before a stop, which is not taken."""
        text, stop = yield from self.read_until(stops)
        self._buffer.text = stop + self._buffer.text
        return text

    def take_character(self) -> Script[str]:
        """Takes the next character; empty at the end."""
        yield from self.peek()
        return self._buffer.take(1)

    def copy_json(self, stops: Stops) -> Script[str]:
        """Shows arguments that are JSON, in which a stop is none in a string; returns the stop.

        What follows the JSON value is left out; what cannot be JSON is shown as it is written.
        """
        value = JsonValue()
        while (yield from self.peek()) and value.progress is Progress.OPEN:
            self.show_arguments(self._buffer.take(value.read(self._buffer.text)))
        if value.progress is Progress.DONE:
            return (yield from self.read_until(stops))[1]
        return (yield from self.copy_until(stops, self.show_arguments))

    def show_text(self, text: str) -> None:
        self._parts += self._text.add(text)

    def leave_out_call(self) -> None:
        """An output that is cut before it is known what is called ends before the call."""
        self._parts += self._text.begin_call()

    def show_reasoning(self, text: str) -> None:
        if text:
            self._parts.append(ReasoningPart(text))

    def show_call(self, name: str, call_id: str = "") -> None:
        self._parts += self._text.begin_call()
        self._parts.append(CallPart(name, call_id))

    def show_arguments(self, text: str) -> None:
        if text:
            self._parts.append(ArgumentsPart(text))

    def _take_now(self, texts: Sequence[str]) -> str:
        fitting = [text for text in texts if self._buffer.text.startswith(text)]
        return self._buffer.take(len(max(fitting, key=len, default="")))


class ArgumentsScript(ScriptedParser):
    """Writes arguments as JSON that their format writes one by one."""

    def __init__(self) -> None:
        super().__init__(strips=True)
        self._arguments = 0

    def begin_arguments(self, name: str, call_id: str = "") -> None:
        self._arguments = 0
        self.show_call(name, call_id)

    def begin_argument(self, name: str) -> None:
        self.show_arguments((", " if self._arguments else "{") + quoted(name) + ": ")
        self._arguments += 1

    def end_arguments(self) -> None:
        self.show_arguments("}" if self._arguments else "{}")

    def copy_value(self, types: frozenset[str], stops: Stops) -> Script[str]:
        """Shows a value without JSON syntax as JSON of one of `types`; returns the stop.

        A string is shown while it comes. A value that is cut is left open, so the arguments are not
        JSON: nobody may take them for what the model wanted to write.
        """
        if "string" in types and not types - {"string", "null"}:
            string = StringPieces(self.show_arguments, null="null" in types)
            stop = yield from self.copy_until(stops, string.add)
            string.end(cut=not stop)
            return stop
        text, stop = yield from self.read_until(stops)
        self.show_arguments(as_json(text, types) if stop else text)
        return stop
