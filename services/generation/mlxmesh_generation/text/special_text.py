"""Prevents special tokens in callers' input: their texts are marked there, and only there. Pure.

A mark stands behind the first character of such a text, so that no tokenizer finds the token; the
tokenizer that reads marked text drops the marks before it looks for words. Nothing but the standard
library is imported here: the process that renders templates needs it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

MARK = "\ufdd0"
"""A character that Unicode keeps out of texts: U+FDD0, a noncharacter.

Who sends it gains nothing, because tokens are found before marks are dropped.
"""


class SpecialTexts:
    """The texts of a model's special tokens."""

    def __init__(self, texts: Iterable[str]) -> None:
        # A mark cannot separate a single character; no known model has such a special token.
        texts = sorted({text for text in texts if len(text) > 1})
        self._pattern = re.compile(_either(texts)) if texts else None
        # They may overlap: each character that begins one gets a mark.
        self._begins = re.compile(f"(?s)(?={_either(texts)}).")
        self._beginnings = {text[:end] for text in texts for end in range(1, len(text))}
        self._longest = max(map(len, texts), default=0)

    def marked(self, value: Any) -> tuple[Any, bool]:
        """The same value with every special text in its strings marked; whether there was one.

        Marks too what begins one at the end of a string, for a template may go on with the rest.
        """
        if self._pattern is None:
            return value, False
        marked = _each_string(value, self._mark)
        return marked, marked != value

    def _mark(self, text: str) -> str:
        assert self._pattern is not None
        marked = self._begins.sub(rf"\g<0>{MARK}", text) if self._pattern.search(text) else text
        for length in range(min(self._longest - 1, len(marked)), 0, -1):
            if marked[-length:] in self._beginnings:
                start = len(marked) - length + 1
                return marked[:start] + MARK + marked[start:]
        return marked


def without_marks(text: str) -> str:
    return text.replace(MARK, "")


def _each_string(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {_each_string(key, change): _each_string(item, change) for key, item in items}
    if isinstance(value, list | tuple):
        return [_each_string(item, change) for item in cast("Sequence[Any]", value)]
    return value


def _either(texts: Sequence[str]) -> str:
    """A pattern of any of the sorted texts, as a tree: no text is compared character by character
    with each of hundreds of others that begin alike.
    """
    if len(texts) == 1:
        return re.escape(texts[0])
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(text[:1], []).append(text[1:])
    parts = [re.escape(first) + _either(rests) for first, rests in groups.items() if first]
    ends = "?" if "" in groups else ""
    return f"(?:{'|'.join(parts)}){ends}" if parts else ""
