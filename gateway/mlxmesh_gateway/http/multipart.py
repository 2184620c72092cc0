"""multipart/form-data as it arrives: fields whole, and the file in pieces.

Source: RFC 7578.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mlxmesh_shared.errors import InvalidArgument

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELD_BYTES = 4_096
MAX_PARTS = 32
_CONTENT_TYPE = "multipart/form-data"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,63}/[A-Za-z0-9.+-]{1,63}")
MAX_FILE_NAME = 255


@dataclass(frozen=True, slots=True)
class FormField:
    """A field with a text."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileBegin:
    """A file begins; FileData follow."""

    name: str
    """Of the field."""
    file_name: str
    media_type: str
    """Empty where none is told, or an illegal one."""


@dataclass(frozen=True, slots=True)
class FileData:
    """The next bytes of the file."""

    data: bytes


FormPart = FormField | FileBegin | FileData


async def read_form(
    body: AsyncIterable[bytes], headers: Mapping[str, str]
) -> AsyncIterator[FormPart]:
    """What a form has, in the order in which it was sent.

    Raises: InvalidArgument, and what the body raises.
    """
    parts = _Parts(_boundary(headers))
    async for chunk in body:
        for part in parts.feed(chunk):
            yield part
    parts.check_ended()


def _boundary(headers: Mapping[str, str]) -> bytes:
    kind, options = _options(headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind.decode("latin-1").lower() != _CONTENT_TYPE or not boundary:
        raise InvalidArgument(
            f"the body must be a form, with the header content-type: {_CONTENT_TYPE}; boundary=...",
            field="content-type",
        )
    if len(boundary) > 200:
        raise _malformed()
    return boundary


class _Parts:
    """The parser's callbacks."""

    def __init__(self, boundary: bytes) -> None:
        self._found: list[FormPart] = []
        self._headers: dict[bytes, bytes] = {}
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._field: tuple[str, bytearray] | None = None
        self._parts = 0
        self._ended = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_part_data": self._part_data,
            "on_part_end": self._end_part,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._headers_finished,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)
        # It would log a warning for each malformed form.
        self._parser.logger = logging.Logger("multipart", logging.CRITICAL)

    def feed(self, chunk: bytes) -> list[FormPart]:
        """What the chunk completes. Raises: InvalidArgument."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise _malformed() from None
        found, self._found = self._found, []
        return found

    def check_ended(self) -> None:
        """Raises: InvalidArgument if the form has no end."""
        if not self._ended:
            raise _malformed()

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidArgument(f"the form has more than {MAX_PARTS} fields")
        self._headers = {}
        self._field = None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        shown = self._headers.get(b"content-disposition", b"").decode("latin-1")
        _, options = _options(shown)
        name = _text(options.get(b"name", b""))
        if b"filename" not in options:
            self._field = (name, bytearray())
            return
        media_type = self._headers.get(b"content-type", b"").decode("latin-1")
        file_name = legal_file_name(_text(options[b"filename"]))
        self._found.append(FileBegin(name, file_name, legal_media_type(media_type)))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._found.append(FileData(data[start:end]))
            return
        name, value = self._field
        value.extend(data[start:end])
        if len(value) > MAX_FIELD_BYTES:
            raise InvalidArgument(
                f"a field of the form has more than {MAX_FIELD_BYTES} bytes", field=name[:100]
            )

    def _end_part(self) -> None:
        if self._field is not None:
            name, value = self._field
            self._found.append(FormField(name, _text(bytes(value))))

    def _end(self) -> None:
        self._ended = True


def legal_file_name(name: str) -> str:
    """A name without folders and control characters; never empty."""
    last = re.split(r"[/\\]", _CONTROL.sub("", name))[-1]
    return last[:MAX_FILE_NAME] or "file"


def legal_media_type(text: str) -> str:
    """A media type without its parameters; empty for an illegal one."""
    kind = text.partition(";")[0].strip()
    major, _, minor = kind.partition("/")
    kind = f"{major.lower()}/{minor}"
    return kind if _MEDIA_TYPE.fullmatch(kind) else ""


def _options(header: str) -> tuple[bytes, dict[bytes, bytes]]:
    """The value of a header, and its parameters. Raises: InvalidArgument."""
    try:
        return parse_options_header(header)
    except ValueError:  # such as a name in an encoding that the library cannot pass on
        raise _malformed() from None


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _malformed() -> InvalidArgument:
    return InvalidArgument("the body is no valid form (multipart/form-data)", field="content-type")
