"""Limits the fields and elements of an encoded message before it is parsed. Pure.

Parsing takes up to 0.5 microseconds and 50 bytes of memory for two bytes on the wire, and blocks
the event loop. Counting ends at the first element above a limit, so that its cost depends on the
rules and not on the request. Source: Protocol Buffers, Encoding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from mlxmesh_shared.errors import InvalidArgument, MalformedMessage
from mlxmesh_shared.rules.words import field_rules, given, items_words

MAX_UNCOUNTED_BYTES = 1024
"""Messages up to this size are not counted: parsing takes at most half a millisecond."""
MAX_FIELDS = 100_000
"""Fields of a message and all messages in it; elements of lists of numbers count separately."""
MAX_UNKNOWN_FIELDS = 1000
"""The fields among those that are not in the contract."""
MAX_DEPTH = 64
"""Levels of nested messages; protobuf's own limit is 100."""

_MAX_LIGHT_FIELDS = 500
# The most bytes of a run in one match: a match blocks the interpreter, and its elements are counted
# only afterwards.
_MAX_RUN_BYTES = 64 * 1024

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_CONTINUED = bytes(range(0x80, 0x100))
_WIRE_TYPES = {
    **dict.fromkeys((FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FIXED64), _FIXED64),
    **dict.fromkeys((FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_FIXED32), _FIXED32),
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED32: _FIXED32,
}
_MALFORMED = "the message is not valid protobuf of the method's request type"


@dataclass
class _Field:
    """One field in the wire format."""

    name: str
    repeated: bool
    max_items: float
    words: str
    message: _Shape | None
    packed: int | None
    """The wire type of the elements of a list that may be packed; None for any other field."""
    run: re.Pattern[bytes] | None
    """A run of elements of that list, each with its own tag."""


@dataclass
class _Shape:
    """The fields of one message type, by number."""

    fields: dict[int, _Field] = field(default_factory=dict[int, _Field])


class WireLimits:
    """The limits of message types and of all types in their fields, compiled at their first use."""

    def __init__(self, *, max_fields: int = MAX_FIELDS) -> None:
        self._max_fields = max_fields
        self._shapes: dict[str, _Shape] = {}

    def check(self, descriptor: Descriptor, encoded: bytes) -> None:
        """Raises: InvalidArgument above a limit; MalformedMessage."""
        if len(encoded) > MAX_UNCOUNTED_BYTES:
            _Count(self._max_fields).message(self._shape(descriptor), encoded, 0, len(encoded))

    def is_light(self, descriptor: Descriptor, encoded: bytes) -> bool:
        """Whether parsing takes less than a millisecond; for messages that are not tiny."""
        count = _Count(_MAX_LIGHT_FIELDS)
        try:
            count.message(self._shape(descriptor), encoded, 0, len(encoded))
        except InvalidArgument:
            return False
        return True

    def _shape(self, descriptor: Descriptor) -> _Shape:
        known = self._shapes.get(descriptor.full_name)
        if known is not None:
            return known
        # In the table before it is complete, so that a type may contain itself.
        shape = self._shapes[descriptor.full_name] = _Shape()
        for member in descriptor.fields:
            shape.fields[member.number] = self._field(member)
        return shape

    def _field(self, member: FieldDescriptor) -> _Field:
        rules = field_rules(member)
        max_items = given(rules, "max_items")
        packs = member.is_repeated and member.message_type is None and _is_number(member)
        wire_type = _WIRE_TYPES.get(member.type, _VARINT)
        return _Field(
            name=member.name,
            repeated=member.is_repeated,
            max_items=float("inf") if max_items is None else max_items,
            words=items_words(rules),
            message=self._shape(member.message_type) if member.message_type else None,
            packed=wire_type if packs else None,
            run=_run(member.number, wire_type) if packs else None,
        )


class _Count:
    """Counts one message."""

    def __init__(self, max_fields: int) -> None:
        self._max_fields = max_fields
        self._left = max_fields
        self._unknown_left = MAX_UNKNOWN_FIELDS

    def message(self, shape: _Shape, data: bytes, at: int, end: int, depth: int = 0) -> None:
        """Counts the message between two offsets."""
        if depth > MAX_DEPTH:
            raise MalformedMessage(f"the message has more than {MAX_DEPTH} levels")
        counts: dict[int, int] = {}
        try:
            while at < end:
                at = self._next(shape, data, at, end, depth, counts)
        except IndexError:
            at = end + 1
        if at != end:
            raise MalformedMessage(_MALFORMED)

    def _next(
        self, shape: _Shape, data: bytes, at: int, end: int, depth: int, counts: dict[int, int]
    ) -> int:
        """Counts the field at an offset; returns the offset of the next one."""
        start = at
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _varint(data, at - 1)
        number, wire_type = tag >> 3, tag & 7
        known = shape.fields.get(number)
        self._count_field(known)
        if known is not None and known.run is not None and wire_type == known.packed:
            run = known.run.match(data, start, min(end, start + _MAX_RUN_BYTES))
            if run is not None:  # else its tag is longer than necessary
                _add(counts, known, number, _elements_of_run(wire_type, number, run.group()))
                return run.end()
        if wire_type == _BYTES:
            size, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
            inner, at = at, at + size
            if at > end:
                raise MalformedMessage(_MALFORMED)
            if known is not None:
                self._content(known, number, data, inner, at, depth, counts)
            return at
        return _varint(data, at)[1] if wire_type == _VARINT else at + _fixed_size(wire_type)

    def _content(
        self,
        known: _Field,
        number: int,
        data: bytes,
        at: int,
        end: int,
        depth: int,
        counts: dict[int, int],
    ) -> None:
        if known.repeated:
            elements = 1 if known.packed is None else _elements(known.packed, data[at:end])
            _add(counts, known, number, elements)
        if known.message is not None and at < end:
            try:
                self.message(known.message, data, at, end, depth + 1)
            except InvalidArgument as error:
                raise _within(error, known, counts.get(number)) from None

    def _count_field(self, known: _Field | None) -> None:
        self._left -= 1
        if self._left < 0:
            raise InvalidArgument(
                f"the message has more than {self._max_fields} fields; send less at once"
            )
        if known is not None:
            return
        self._unknown_left -= 1
        if self._unknown_left < 0:
            raise InvalidArgument(
                f"the message has more than {MAX_UNKNOWN_FIELDS} fields that are not in the"
                " contract; does it have another type?"
            )


def _add(counts: dict[int, int], known: _Field, number: int, elements: int) -> None:
    counts[number] = count = counts.get(number, 0) + elements
    if count > known.max_items:
        raise InvalidArgument(f"{known.name} must have {known.words}", field=known.name)


def _within(error: InvalidArgument, known: _Field, count: int | None) -> InvalidArgument:
    """The error with the path of its field; errors about a whole message have none."""
    if type(error) is not InvalidArgument or not error.field:
        return error
    place = known.name if count is None else f"{known.name}[{count - 1}]"
    return InvalidArgument(f"{place}.{error}", field=f"{place}.{error.field}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise MalformedMessage(_MALFORMED)


def _fixed_size(wire_type: int) -> int:
    # The contract has no groups, and protobuf's own runtime has no other wire types.
    size = _FIXED_SIZES.get(wire_type)
    if size is None:
        raise MalformedMessage(_MALFORMED)
    return size


def _is_number(member: FieldDescriptor) -> bool:
    return member.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


def _elements(wire_type: int, packed: bytes) -> int:
    """Of a packed list; each varint has one byte below 0x80."""
    if wire_type == _VARINT:
        return len(packed.translate(None, _CONTINUED))
    return len(packed) // _FIXED_SIZES[wire_type]


def _elements_of_run(wire_type: int, number: int, run: bytes) -> int:
    if wire_type == _VARINT:
        return len(run.translate(None, _CONTINUED)) // 2  # of the tag and of the value
    return len(run) // (len(_encoded_tag(number, wire_type)) + _FIXED_SIZES[wire_type])


def _run(number: int, wire_type: int) -> re.Pattern[bytes]:
    tag = re.escape(_encoded_tag(number, wire_type))
    value = (
        rb"[\x80-\xff]{0,9}[\x00-\x7f]"
        if wire_type == _VARINT
        else b".{%d}" % _FIXED_SIZES[wire_type]
    )
    return re.compile(b"(?:" + tag + value + b")++", re.DOTALL)


def _encoded_tag(number: int, wire_type: int) -> bytes:
    tag = number << 3 | wire_type
    encoded = b""
    while tag >= 0x80:
        encoded += bytes([tag & 0x7F | 0x80])
        tag >>= 7
    return encoded + bytes([tag])
