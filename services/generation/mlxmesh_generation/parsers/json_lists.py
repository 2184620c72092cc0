"""Reads lists of calls that are written as JSON. Pure."""

from collections.abc import Collection

from mlxmesh_generation.parsers.json_calls import CallKeys, JsonCall
from mlxmesh_generation.parsers.json_text import Progress
from mlxmesh_generation.parsers.markers import SPACE
from mlxmesh_generation.parsers.parts import Part


class JsonCalls:
    """One object, objects with separators between them, or a list of objects."""

    def __init__(
        self, keys: CallKeys, names: Collection[str] | None = None, *, separators: str = ""
    ) -> None:
        """`names` as of JsonCall."""
        self.progress = Progress.OPEN
        self.any_begun = False
        self._keys = keys
        self._names = names
        self._separators = separators
        self._in_list = False
        self._raw = ""
        self._call: JsonCall | None = None
        self._after_call = False

    @property
    def raw(self) -> str:
        """What was read and belongs to no call."""
        return self._raw + (self._call.raw if self._call is not None else "")

    @property
    def arguments_open(self) -> bool:
        """Whether what follows may belong to the arguments of the last call."""
        return self._call is not None and self._call.arguments_open

    def read(self, text: str) -> tuple[list[Part], int]:
        """The parts of calls, and how many characters they took; sets `progress`."""
        parts: list[Part] = []
        at = 0
        while at < len(text) and self.progress is Progress.OPEN:
            if self._call is None:
                at = self._read_between(text, at)
            else:
                at += self._read_call(self._call, text[at:], parts)
        return parts, at

    def end(self) -> None:
        """No more text follows; objects with separators may end here."""
        if self._after_call and not self._in_list and self._call is None:
            self.progress = Progress.DONE

    def flush(self) -> list[Part]:
        return self._call.flush() if self._call is not None else []

    def _read_call(self, call: JsonCall, text: str, parts: list[Part]) -> int:
        fresh, length = call.read(text)
        parts += fresh
        if call.begun:
            self.any_begun, self._raw = True, ""
        if call.progress is Progress.BROKEN or (call.progress is Progress.DONE and not call.begun):
            self.progress = Progress.BROKEN
        elif call.progress is Progress.DONE:
            self._call, self._after_call = None, True
            if not self._in_list and not self._separators:
                self.progress = Progress.DONE
        return length

    def _read_between(self, text: str, at: int) -> int:
        character = text[at]
        if character in SPACE:
            self._keep(character)
            return at + 1
        if character == "{" and not self._after_call:
            self._call = JsonCall(self._keys, self._names)
            return at
        if not self._after_call and not self._in_list and character == "[":
            self._in_list = True
            self._keep(character)
        elif self._in_list and character == "]" and self._after_call:
            self.progress = Progress.DONE
        elif self._after_call and character in (self._separators, "," if self._in_list else ""):
            self._after_call = False
            self._keep(character)
        else:
            self._stop()
            return at
        return at + 1

    def _keep(self, character: str) -> None:
        if not self.any_begun or not self._after_call:
            self._raw += character

    def _stop(self) -> None:
        # What follows the last object is not read here: then the objects are whole.
        whole = self._after_call and not self._in_list
        self.progress = Progress.DONE if whole else Progress.BROKEN
