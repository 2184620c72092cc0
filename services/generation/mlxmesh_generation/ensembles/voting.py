"""Which of several answers most agree on. Pure."""

import importlib
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

from mlxmesh_generation.ensembles.answer import Answer
from mlxmesh_generation.ensembles.json_values import canonical_json

MAX_MATCHED_CHARACTERS = 8192
"""RE2 finds one match in linear time, but all of them in quadratic time: 0.05 s for so many."""


def canonical(answer: Answer, pattern: str = "") -> Hashable | None:
    """What an answer is compared by; None if the pattern does not match."""
    if answer.calls:
        calls = [(call.name, _canonical_text(call.arguments)) for call in answer.calls]
        return "calls", tuple(calls)
    if not pattern:
        return _canonical_text(answer.text)
    match = last_match(pattern, answer.text)
    return None if match is None else _canonical_text(match)


def last_match(pattern: str, text: str) -> str | None:
    """The last match of the first group, or of the whole pattern without one."""
    compiled = _compiled(pattern)
    matches = deque(compiled.finditer(text[-MAX_MATCHED_CHARACTERS:]), maxlen=1)
    # A group that took no part in a match has no text.
    return matches[0].group(1 if compiled.groups else 0) if matches else None


def elect(votes: Sequence[Hashable | None]) -> tuple[int, list[int]]:
    """The place of the first vote that most are equal to, and how many are equal to each."""
    counts = Counter(vote for vote in votes if vote is not None)
    numbers = [0 if vote is None else counts[vote] for vote in votes]
    return numbers.index(max(numbers)), numbers


def _canonical_text(text: str) -> Hashable:
    try:
        return "json", canonical_json(text)
    except ValueError:
        return "text", " ".join(text.split()).lower()


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    """The model service has checked that it can be compiled."""
    re2: Any = importlib.import_module("re2")  # it has no types
    return re2.compile(pattern)
