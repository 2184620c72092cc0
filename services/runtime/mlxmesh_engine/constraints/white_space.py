"""Bounds the white space between JSON's tokens. Pure.

Llguidance allows any. A model that repeats it would never end an object.
"""

import json
import re

WHITE_SPACE = r"\x20{1,2}|\x20?\r?\n[\x20\t]{0,20}"
"""Two spaces, or a new line and its indentation: at most 23 characters."""
_OPTION = f'"x-guidance": {json.dumps({"whitespace_pattern": WHITE_SPACE})}'
# A schema in a Lark grammar, or what may contain the same characters: a comment, string or regex.
_TOKENS = re.compile(r'//[^\n]*|"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|(?P<schema>%json\s*)(?=\{)')
_DECODER = json.JSONDecoder()


def bound_white_space(lark: str) -> str:
    """The grammar with the option for each of its JSON schemas that does not have its own."""
    parts: list[str] = []
    at = 0
    while (found := _TOKENS.search(lark, at)) is not None:
        parts.append(lark[at : found.end()])
        at = found.end()
        if found["schema"]:
            option, end = _option(lark, at)
            parts += [option, lark[at + bool(option) : end]]
            at = end
    return "".join([*parts, lark[at:]])


def _option(lark: str, start: int) -> tuple[str, int]:
    """What replaces the brace at the start of a schema, if it must be, and where the schema ends.

    Llguidance refuses what is not JSON.
    """
    try:
        schema, end = _DECODER.raw_decode(lark, start)
    except (ValueError, RecursionError):
        return "", start
    if "x-guidance" in schema:
        return "", end
    return f"{{{_OPTION}{', ' if schema else ''}", end
