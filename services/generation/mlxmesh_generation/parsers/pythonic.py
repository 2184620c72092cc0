"""Calls as a Python list: `[f(a=1), g()]`. Pure."""

import json
import re
from collections.abc import Mapping, Sequence

from mlxmesh_generation.parsers.json_text import Progress
from mlxmesh_generation.parsers.markers import Markers
from mlxmesh_generation.parsers.parts import ArgumentsPart, CallPart, Part
from mlxmesh_generation.parsers.python_literals import PythonValue
from mlxmesh_generation.parsers.text_state import StateParser, TextAroundCalls

START, END = "<|python_start|>", "<|python_end|>"
_START, _END = Markers.of(START), Markers.of(END)
_NAME = re.compile(r"[A-Za-z0-9_.-]*")
_KEY = re.compile(r"([^\W\d]\w*)[ \t\r\n]*=")
_KEY_BEGINNING = re.compile(r"[^\W\d]\w*[ \t\r\n]*|\*")
_UNPACKED = "**"


class PythonicParser(StateParser):
    """Calls are at the beginning of an output, or after a start marker.

    A list that is not marked is one of calls only if its first name is that of a tool. Arguments
    without a name get those of the schema, in order. `**{...}` are all arguments.
    """

    def __init__(self, parameters: Mapping[str, Sequence[str]]) -> None:
        """The names of the parameters of each tool."""
        self._parameters = parameters
        super().__init__(self._read_beginning)
        self._text = TextAroundCalls(strips=False)
        self._is_marked = False
        self._any_begun = False
        self._raw = ""
        """What was read of a list in which no call has begun, with the marker."""
        self._name = ""
        self._arguments = 0
        self._closing = ""
        """What completes the JSON object of the arguments."""
        self._value = PythonValue()

    def flush(self) -> list[Part]:
        rest = self._buffer.take_all()
        if self._state == self._read_tail:
            return _shown(rest)
        if self._state == self._read_value:
            return _shown(self._value.flush())
        if self._any_begun and self._state not in (self._read_text, self._read_after):
            return []
        if self._is_marked and self._state != self._read_text:
            return self._text.begin_call()
        return [*self._text.add(self._raw + rest), *self._text.flush()]

    def _read_beginning(self) -> list[Part] | None:
        parts = self._text.add(self._buffer.take_space())
        if not self._buffer.text:
            return parts or None
        self._state = self._read_list if self._buffer.text[0] == "[" else self._read_text
        return parts

    def _read_text(self) -> list[Part] | None:
        before, marker = self._buffer.take_until(_START)
        if marker:
            self._raw, self._is_marked, self._any_begun = marker, True, False
            self._state = self._read_list
        return self._text.add(before) if before or marker else None

    def _read_list(self) -> list[Part] | None:
        """The bracket before the first call."""
        self._raw += self._buffer.take_space()
        if not self._buffer.text:
            return None
        if self._buffer.text[0] != "[":
            return self._no_call()
        self._raw += self._buffer.take(1)
        self._name, self._state = "", self._read_name
        return []

    def _read_name(self) -> list[Part] | None:
        if not self._name:
            self._raw += self._buffer.take_space()
        match = _NAME.match(self._buffer.text)
        taken = self._buffer.take(match.end() if match is not None else 0)
        self._name += taken
        self._raw += taken
        if not self._buffer.text:
            return None
        known = self._is_marked or self._any_begun or self._name in self._parameters
        if self._buffer.text[0] != "(" or not self._name or not known:
            return self._no_call()
        self._raw += self._buffer.take(1)
        self._state = self._read_arguments_start
        return []

    def _no_call(self) -> list[Part]:
        raw, self._raw = self._raw, ""
        self._is_marked, self._state = False, self._read_text
        return self._text.add(raw)

    def _read_arguments_start(self) -> list[Part] | None:
        self._raw += self._buffer.take_space()
        if not self._buffer.text:
            return None
        parts = [] if self._any_begun else self._text.begin_call()
        self._any_begun, self._raw = True, ""
        self._arguments, self._closing = 0, ""
        self._state = self._read_argument
        return [*parts, CallPart(self._name)]

    def _read_argument(self) -> list[Part] | None:
        self._buffer.take_space()
        text = self._buffer.text
        if not text or _KEY_BEGINNING.fullmatch(text):
            return None
        if text[0] == ")":
            return self._end_call()
        self._value, self._state = PythonValue(), self._read_value
        if text.startswith(_UNPACKED) and not self._arguments:
            self._buffer.take(len(_UNPACKED))
            self._arguments += 1
            return []
        match = _KEY.match(text)
        if match is not None:
            self._buffer.take(match.end())
        return _shown(self._key(match.group(1) if match is not None else self._positional()))

    def _positional(self) -> str:
        names = self._parameters.get(self._name, ())
        return names[self._arguments] if self._arguments < len(names) else str(self._arguments)

    def _key(self, name: str) -> str:
        before = ", " if self._arguments else "{"
        self._arguments += 1
        self._closing = "}"
        return f"{before}{json.dumps(name, ensure_ascii=False)}: "

    def _read_value(self) -> list[Part] | None:
        if not self._buffer.text:
            return None
        piece, length = self._value.read(self._buffer.text)
        self._buffer.take(length)
        if self._value.progress is Progress.DONE:
            self._state = self._read_after_value
        return _shown(piece)

    def _read_after_value(self) -> list[Part] | None:
        character = self._buffer.text[0]
        if character == ")":
            return self._end_call()
        if character == ",":
            self._buffer.take(1)
            self._state = self._read_argument
            return []
        self._state = self._read_tail
        return []

    def _end_call(self) -> list[Part]:
        self._buffer.take(1)
        self._state = self._read_between
        return _shown(self._closing if self._arguments else "{}")

    def _read_between(self) -> list[Part] | None:
        self._buffer.take_space()
        if not self._buffer.text:
            return None
        if self._buffer.text[0] in ",]":
            is_end = self._buffer.take(1) == "]"
            self._name, self._raw = "", ""
            self._state = self._read_after if is_end else self._read_name
        else:
            self._state = self._read_text
        return []

    def _read_after(self) -> list[Part] | None:
        """An end marker right after a marked list."""
        parts = self._text.add(self._buffer.take_space())
        if not self._buffer.text:
            return parts or None
        found = self._buffer.take_marker(_END) if self._is_marked else ""
        if found is None:
            return parts or None
        if found:
            self._text.end_call()
        self._is_marked, self._state = False, self._read_text
        return parts

    def _read_tail(self) -> list[Part] | None:
        """What follows broken arguments belongs to them, up to an end marker."""
        before, marker = self._buffer.take_until(_END)
        if marker:
            self._state = self._read_text
        return _shown(before) if before or marker else None


def _shown(text: str) -> list[Part]:
    return [ArgumentsPart(text)] if text else []
