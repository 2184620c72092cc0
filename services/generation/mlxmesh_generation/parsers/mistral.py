"""Mistral's tool calls: `[TOOL_CALLS]` before a list of objects, or before each name. Pure."""

import re

from mlxmesh_generation.parsers.json_calls import Arguments, CallKeys
from mlxmesh_generation.parsers.json_lists import JsonCalls
from mlxmesh_generation.parsers.json_text import Progress
from mlxmesh_generation.parsers.markers import Markers
from mlxmesh_generation.parsers.parts import ArgumentsPart, CallPart, Part
from mlxmesh_generation.parsers.text_state import StateParser, TextAroundCalls

START, CALL_ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_START = Markers.of(START)
_AFTER_NAME = Markers.of(CALL_ID, ARGUMENTS)
_AFTER_ID = Markers.of(ARGUMENTS)
_NAME = re.compile(r"[A-Za-z0-9_.-]*")


class MistralParser(StateParser):
    """After a start marker, `[{"name": ..., "arguments": ...}]` or `name[ARGS]{...}`.

    What follows a start marker and is neither is text, with the marker. An output that ends after a
    marker, and before it is known whether a call follows, ends before the marker.
    """

    def __init__(self) -> None:
        super().__init__(self._read_text)
        self._text = TextAroundCalls(strips=False)
        self._raw = ""
        """The marker and what followed it, while no call has begun."""
        self._name = ""
        self._call_id = ""
        self._calls = JsonCalls(CallKeys())
        self._arguments = Arguments()

    def flush(self) -> list[Part]:
        rest = self._buffer.take_all()
        if self._state == self._read_text:
            return [*self._text.add(rest), *self._text.flush()]
        if self._state == self._read_list:
            return self._calls.flush() if self._calls.any_begun else self._text.begin_call()
        if self._state == self._read_arguments:
            return _arguments(self._arguments.flush())
        return _arguments(rest) if self._state == self._read_tail else self._text.begin_call()

    def _read_text(self) -> list[Part] | None:
        before, marker = self._buffer.take_until(_START)
        if marker:
            self._raw, self._name, self._call_id = marker, "", ""
            self._state = self._read_kind
        elif not before:
            return None
        return self._text.add(before)

    def _read_kind(self) -> list[Part] | None:
        self._raw += self._buffer.take_space()
        if not self._buffer.text:
            return None
        if self._buffer.text[0] in "[{":
            self._calls, self._state = JsonCalls(CallKeys()), self._read_list
        else:
            self._state = self._read_name
        return []

    def _read_list(self) -> list[Part] | None:
        if not self._buffer.text:
            return None
        begun = self._calls.any_begun
        parts, length = self._calls.read(self._buffer.text)
        self._buffer.take(length)
        if self._calls.any_begun and not begun:
            parts = [*self._text.begin_call(), *parts]
        if self._calls.progress is Progress.OPEN:
            return parts
        if self._calls.progress is Progress.BROKEN and self._calls.arguments_open:
            self._state = self._read_tail
            return [*parts, *self._calls.flush()]
        self._state = self._read_text
        text = ("" if self._calls.any_begun else self._raw) + self._calls.raw
        return [*parts, *self._text.add(text if self._calls.progress is Progress.BROKEN else "")]

    def _read_name(self) -> list[Part] | None:
        match = _NAME.match(self._buffer.text)
        taken = self._buffer.take(match.end() if match is not None else 0)
        self._name += taken
        self._raw += taken
        if not self._buffer.text:
            return None
        self._state = self._read_after_name
        return []

    def _read_after_name(self) -> list[Part] | None:
        if self._name and self._buffer.text[0] == "{":
            self._state = self._read_arguments_start
            return []
        marker = self._buffer.take_marker(_AFTER_NAME) if self._name else ""
        if marker is None:
            return None
        self._raw += marker
        if marker == CALL_ID:
            self._state = self._read_call_id
        elif marker == ARGUMENTS:
            self._state = self._read_arguments_start
        else:
            return self._no_call()
        return []

    def _read_call_id(self) -> list[Part] | None:
        before, marker = self._buffer.take_until(_AFTER_ID)
        self._call_id += before
        self._raw += before + marker
        if marker:
            self._state = self._read_arguments_start
        return [] if before or marker else None

    def _read_arguments_start(self) -> list[Part] | None:
        self._raw += self._buffer.take_space()
        if not self._buffer.text:
            return None
        if self._buffer.text[0] != "{":
            return self._no_call()
        self._arguments, self._state = Arguments(), self._read_arguments
        return [*self._text.begin_call(), CallPart(self._name, self._call_id)]

    def _no_call(self) -> list[Part]:
        self._state = self._read_text
        return self._text.add(self._raw)

    def _read_arguments(self) -> list[Part] | None:
        if not self._buffer.text:
            return None
        piece, length = self._arguments.read(self._buffer.text)
        self._buffer.take(length)
        parts = _arguments(piece)
        if self._arguments.progress is Progress.DONE:
            self._state = self._read_text
        elif self._arguments.progress is Progress.BROKEN:
            self._state = self._read_tail
            parts += _arguments(self._arguments.flush())
        return parts

    def _read_tail(self) -> list[Part] | None:
        """What follows broken arguments belongs to them, up to the next marker."""
        before, marker = self._buffer.take_until(_START)
        if marker:
            self._raw, self._name, self._call_id = marker, "", ""
            self._state = self._read_kind
        elif not before:
            return None
        return _arguments(before)


def _arguments(text: str) -> list[Part]:
    return [ArgumentsPart(text)] if text else []
