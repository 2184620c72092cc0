"""Reads server-sent events. Pure.

Source: WHATWG HTML, section 9.2.6, "Interpreting an event stream". Only data is of interest; ids,
names and retry times are ignored.
"""

import re

MAX_EVENT_BYTES = 4 * 1024 * 1024

# The end of a line; a \r at the very end may be the first half of \r\n.
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event has more bytes than a reader holds."""


class EventReader:
    """Takes bytes as they come and gives the data of whole events."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._first = True

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that end within these bytes.

        Raises: EventTooLarge.
        """
        events: list[str] = []
        start = 0
        buffer = self._rest + chunk
        for end in _LINE_END.finditer(buffer):
            if (data := self._on_line(buffer[start : end.start()])) is not None:
                events.append(data)
            start = end.end()
        self._rest = buffer[start:]
        if len(self._rest) + self._data_bytes > self._max_event_bytes:
            raise EventTooLarge(f"an event has more than {self._max_event_bytes} bytes")
        return events

    def _on_line(self, line: bytes) -> str | None:
        """The data of the event that an empty line ends; None for every other line."""
        if self._first:
            line, self._first = line.removeprefix(_BOM), False
        if not line:
            data, self._data, self._data_bytes = self._data, [], 0
            return b"\n".join(data).decode("utf-8", errors="replace") if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._data_bytes += len(value) + 1
        return None
