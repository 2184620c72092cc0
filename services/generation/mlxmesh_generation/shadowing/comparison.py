"""Compares two answers. Pure."""

from collections.abc import Sequence
from itertools import takewhile

MAX_COMPARED_CHARACTERS = 4096
"""Of each text: the time of an edit distance grows with the product of both lengths."""


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of equal tokens before the first that differs."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def edit_distance(one: str, other: str) -> float:
    """Insertions, deletions and substitutions of characters, as a part of the longer text.

    Of longer texts, the first MAX_COMPARED_CHARACTERS count.
    """
    if one == other:
        return 0.0
    # Not at the top: only a mesh with a shadow needs it.
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_distance(
        one[:MAX_COMPARED_CHARACTERS], other[:MAX_COMPARED_CHARACTERS]
    )
