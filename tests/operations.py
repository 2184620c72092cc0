"""Counts what code does, so that tests judge how its cost grows, and never a time."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Count:
    """How many functions were called, in Python and in C."""

    def __init__(self) -> None:
        self.calls = 0

    def note(self, _: FrameType, event: str, __: object) -> None:
        self.calls += event in ("call", "c_call")


@contextmanager
def counted() -> Iterator[Count]:
    """Counts the calls in this thread, also those of other tasks while the body awaits."""
    count, before = Count(), sys.getprofile()
    sys.setprofile(count.note)
    try:
        yield count
    finally:
        sys.setprofile(before)


def operations(work: Callable[[], object]) -> int:
    """The calls of one function."""
    with counted() as count:
        work()
    return count.calls
