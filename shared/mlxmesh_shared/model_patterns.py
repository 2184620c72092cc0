"""Patterns of the models that a caller may use. Pure."""

import re

_ENDS_NAME = re.compile(r"[@:]")


def allows(patterns: tuple[str, ...], reference: str) -> bool:
    """Whether a pattern matches the reference, or the name in it; without patterns all match.

    patterns: names in which * stands for any text.
    """
    if not patterns:
        return True
    name = _ENDS_NAME.split(reference, maxsplit=1)[0]
    return any(matches(one, name) or matches(one, reference) for one in patterns)


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text matches; in linear time, since members choose patterns."""
    first, *others = pattern.split("*")
    if not others:
        return pattern == text
    last = others.pop()
    if not text.startswith(first) or len(text) < len(first) + len(last):
        return False
    position, end = len(first), len(text) - len(last)
    for part in others:
        # The leftmost match leaves the most for the parts that follow.
        position = text.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return text.endswith(last)
