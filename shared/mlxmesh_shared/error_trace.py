"""Where an error came from, without its text, which may quote a prompt."""

import traceback
from typing import cast


def first_of(error: BaseException) -> BaseException:
    """The first error of a task group's errors; the others fell with it."""
    if isinstance(error, BaseExceptionGroup):
        return first_of(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return error


def trace_of(error: BaseException) -> str:
    """Where an error came from, by frames and classes: its text may quote a prompt."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    cause = error.__cause__ or error.__context__
    before = f"{trace_of(cause)}which led to\n" if cause is not None else ""
    return f"{before}{frames}{type(error).__qualname__}\n"
