"""What parsers of tool calls between text have in common. Pure."""

from collections.abc import Callable

from mlxmesh_generation.parsers.markers import SPACE, TextBuffer
from mlxmesh_generation.parsers.parts import Part, TextPart


class TextAroundCalls:
    """Holds back white space until it is known whether a call follows.

    White space before a call and between calls is dropped; before a call after text only if
    `strips`. White space between a call and text after it stays.
    """

    def __init__(self, *, strips: bool) -> None:
        self._strips = strips
        self._space = ""
        self._after_text = False
        self._after_call = False

    def add(self, text: str) -> list[Part]:
        """Text, of which white space at the end is held back."""
        shown = text.rstrip(SPACE)
        if not shown:
            self._space += text
            return []
        space, self._space = self._space, text[len(shown) :]
        self._after_text = True
        return [TextPart(space + shown)]

    def begin_call(self) -> list[Part]:
        """The white space that stays before a call."""
        space, self._space = self._space, ""
        stays = self._after_text and not self._strips
        self._after_text, self._after_call = False, True
        return [TextPart(space)] if stays and space else []

    def end_call(self) -> None:
        """An end marker follows a call: white space between them is dropped."""
        self._space = ""

    def flush(self) -> list[Part]:
        """The white space at the end of the output."""
        space, self._space = self._space, ""
        stays = self._after_text or not self._after_call
        return [TextPart(space)] if stays and space else []


class StateParser:
    """A parser whose states read its buffer. The first one is `first`."""

    in_reasoning = False

    def __init__(self, first: Callable[[], list[Part] | None]) -> None:
        self._buffer = TextBuffer()
        self._state: Callable[[], list[Part] | None] = first

    def feed(self, text: str) -> list[Part]:
        self._buffer.add(text)
        parts: list[Part] = []
        # A state returns None once it needs more text.
        while (fresh := self._state()) is not None:
            parts += fresh
        return parts
