"""Reads calls that are written as JSON objects, while they arrive. Pure."""

from collections.abc import Collection
from dataclasses import dataclass

from mlxmesh_generation.parsers.json_text import JsonString, JsonValue, Progress
from mlxmesh_generation.parsers.markers import SPACE
from mlxmesh_generation.parsers.parts import ArgumentsPart, CallPart, Part


@dataclass(frozen=True)
class CallKeys:
    """The keys of a call's object."""

    name: Collection[str] = ("name",)
    arguments: Collection[str] = ("arguments", "parameters")
    call_id: Collection[str] = ("id",)
    wrapper: str = "function"
    """The key of an object around name and arguments, or of the name itself."""
    ignored: Collection[str] = ("type",)

    def known(self, key: str) -> bool:
        either = (*self.name, *self.arguments, *self.call_id, *self.ignored, self.wrapper)
        return key in either


class Arguments:
    """The arguments of one call, as JSON text: a JSON string is decoded, null stands for {}."""

    def __init__(self) -> None:
        self.is_done = False
        self._value = JsonValue()
        self._first = ""
        self._string = JsonString()
        self._scalar = ""
        self._is_empty = True

    @property
    def progress(self) -> Progress:
        return self._value.progress

    def read(self, text: str) -> tuple[str, int]:
        """The text of the arguments, and how many characters it took."""
        length = self._value.read(text)
        piece = text[:length]
        done = self._value.progress is Progress.DONE
        self.is_done = done
        return self._decoded(piece, done=done), length

    def flush(self) -> str:
        """What was held back of arguments that were cut."""
        scalar, self._scalar = self._scalar, ""
        return scalar + self._string.flush()

    def _decoded(self, piece: str, *, done: bool) -> str:
        if not self._first:
            self._first, piece = piece[:1], piece[1:]
            prefix = self._first if self._first in ("{", "[") else ""
            if self._first and self._first not in '{["':
                self._scalar = self._first
            return prefix + (self._decoded(piece, done=done) if self._first else "")
        if self._first == '"':
            return self._decoded_string(piece, done=done)
        if self._first in "{[":
            return piece
        self._scalar += piece
        return self._whole_scalar() if done else ""

    def _decoded_string(self, piece: str, *, done: bool) -> str:
        text = self._string.read(piece[:-1] if done else piece)
        text += self._string.flush() if done else ""
        self._is_empty = self._is_empty and not text
        return "{}" if done and self._is_empty else text

    def _whole_scalar(self) -> str:
        scalar, self._scalar = self._scalar, ""
        return "{}" if scalar == "null" else scalar


class JsonCall:
    """One object such as `{"name": ..., "arguments": {...}}`, with its keys in any order.

    The call begins once its name and the beginning of its arguments are known.
    """

    def __init__(self, keys: CallKeys, names: Collection[str] | None = None) -> None:
        """With `names`, an object of another name or with unknown keys is no call."""
        self.progress = Progress.OPEN
        self.begun = False
        self._raw: list[str] = []
        self._keys = keys
        self._names = names
        self._state = self._read_start
        self._depth = 0
        self._key = ""
        self._value = JsonValue()
        self._text: list[str] = []
        self._name: str | None = None
        self._call_id = ""
        self._arguments: Arguments | None = None
        self._held: list[str] = []
        self._parts: list[Part] = []

    @property
    def raw(self) -> str:
        """All that was read; empty once the call has begun."""
        return "".join(self._raw)

    @property
    def arguments_open(self) -> bool:
        """Whether what follows may belong to the arguments."""
        return self.begun and self._arguments is not None and not self._arguments.is_done

    def read(self, text: str) -> tuple[list[Part], int]:
        """The parts of the call, and how many characters it took; sets `progress`."""
        at = 0
        while at < len(text) and self.progress is Progress.OPEN:
            before = at
            at = self._state(text, at)
            if not self.begun:
                self._raw.append(text[before:at])
        return self._taken(), at

    def flush(self) -> list[Part]:
        """What was held back of arguments that were cut."""
        if self.begun and self._arguments is not None and not self._arguments.is_done:
            self._show(self._arguments.flush())
        return self._taken()

    def _taken(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    def _read_start(self, text: str, at: int) -> int:
        if text[at] == "{":
            self._state = self._read_key_start
            return at + 1
        return self._space_or_broken(text, at)

    def _read_key_start(self, text: str, at: int) -> int:
        if text[at] == '"':
            self._value, self._text, self._state = JsonValue(), [], self._read_key
            return at
        if text[at] == "}":
            return self._close(at)
        return at + 1 if text[at] == "," else self._space_or_broken(text, at)

    def _read_key(self, text: str, at: int) -> int:
        at = self._collect(text, at)
        if self._value.progress is Progress.DONE:
            self._key = _decoded("".join(self._text))
            self._state = self._read_colon
            if self._names is not None and not self.begun and not self._keys.known(self._key):
                self.progress = Progress.BROKEN
        return at

    def _read_colon(self, text: str, at: int) -> int:
        if text[at] == ":":
            self._state = self._read_value_start
            return at + 1
        return self._space_or_broken(text, at)

    def _read_value_start(self, text: str, at: int) -> int:
        if text[at] in SPACE:
            return at + 1
        if self._key == self._keys.wrapper and text[at] == "{":
            self._depth += 1
            self._state = self._read_key_start
            return at + 1
        self._value, self._text = JsonValue(), []
        if self._key in self._keys.arguments and self._arguments is None:
            self._arguments = Arguments()
            self._state = self._read_arguments
            self._begin()
        else:
            self._state = self._read_value
        return at

    def _read_arguments(self, text: str, at: int) -> int:
        assert self._arguments is not None
        piece, length = self._arguments.read(text[at:])
        self._show(piece)
        self._follow(self._arguments.progress)
        return at + length

    def _read_value(self, text: str, at: int) -> int:
        at = self._collect(text, at)
        self._follow(self._value.progress)
        if self._value.progress is Progress.DONE:
            self._keep_value()
        return at

    def _read_after(self, text: str, at: int) -> int:
        if text[at] == ",":
            self._state = self._read_key_start
            return at + 1
        return self._close(at) if text[at] == "}" else self._space_or_broken(text, at)

    def _collect(self, text: str, at: int) -> int:
        length = self._value.read(text[at:])
        self._text.append(text[at : at + length])
        return at + length

    def _follow(self, progress: Progress) -> None:
        if progress is Progress.DONE:
            self._state = self._read_after
        elif progress is Progress.BROKEN:
            self.progress = Progress.BROKEN

    def _keep_value(self) -> None:
        if self.begun or not self._text[0].startswith('"'):
            return
        if self._key in self._keys.call_id:
            self._call_id = _decoded("".join(self._text))
        elif self._key in self._keys.name or self._key == self._keys.wrapper:
            self._name = _decoded("".join(self._text))
            if not self._name or (self._names is not None and self._name not in self._names):
                self.progress = Progress.BROKEN
            elif self._arguments is not None:
                self._begin()

    def _begin(self) -> None:
        """Begins the call, if its name is known."""
        if not self._name or self.begun:
            return
        self.begun = True
        self._raw = []
        self._parts.append(CallPart(self._name, self._call_id))
        held, self._held = self._held, []
        self._show("".join(held))

    def _show(self, text: str) -> None:
        if not self.begun:
            self._held.append(text)
        elif text:
            self._parts.append(ArgumentsPart(text))

    def _close(self, at: int) -> int:
        if self._depth:
            self._depth -= 1
            self._state = self._read_after
            return at + 1
        self.progress = Progress.DONE
        self._begin()
        if self.begun and self._arguments is None:
            self._show("{}")
        return at + 1

    def _space_or_broken(self, text: str, at: int) -> int:
        if text[at] in SPACE:
            return at + 1
        self.progress = Progress.BROKEN
        return at


def _decoded(quoted: str) -> str:
    string = JsonString()
    return string.read(quoted[1:-1]) + string.flush()
