"""What a model's output consists of, and the interface of what takes it apart. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text for the caller."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """Reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPart:
    """A tool call begins."""

    name: str
    call_id: str = ""
    """The id that the model wrote; empty if its format has none."""


@dataclass(frozen=True, slots=True)
class ArgumentsPart:
    """The next piece of the arguments of the call that began last: JSON once they are joined."""

    text: str


Part = TextPart | ReasoningPart | CallPart | ArgumentsPart


class OutputParser(Protocol):
    """Takes one output apart while it is generated; holds back what may become something else.

    However the text is split, the joined parts are the same. It raises nothing: what is broken
    becomes text, or arguments that are not JSON.
    """

    @property
    def in_reasoning(self) -> bool:
        """Whether the next token would belong to reasoning."""
        ...

    def feed(self, text: str) -> list[Part]:
        """The parts that this text completes or continues."""
        ...

    def flush(self) -> list[Part]:
        """The parts held back, once no more text can follow."""
        ...


def joined(parts: Iterable[Part]) -> list[Part]:
    """The parts with neighbours of one kind joined, and without empty ones."""
    result: list[Part] = []
    for part in parts:
        last = result[-1] if result else None
        if isinstance(part, CallPart):
            result.append(part)
        elif not part.text:
            continue
        elif type(last) is type(part) and not isinstance(last, CallPart | None):
            result[-1] = type(part)(last.text + part.text)
        else:
            result.append(part)
    return result


@dataclass(frozen=True)
class Reading:
    """How the outputs of one request are read."""

    new_parser: Callable[[], OutputParser]
    """A parser for one output."""
    markers: frozenset[str]
    """The texts of special tokens that the parser must see; those of others are left out."""
    call_markers: frozenset[str] = frozenset()
    """Those of them that only calls have."""
