"""What a chat template's source says about it, without running it. Pure.

A source is searched by patterns: a template may be read wrongly, which costs an error message or an
unused variable, never a wrong prompt.
"""

import re
from functools import lru_cache

_BLOCK = re.compile(r"\{#.*?#\}|\{\{(.*?)\}\}|\{%(.*?)%\}", re.DOTALL)
_LITERAL = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)


def reads_variable(source: str, name: str) -> bool:
    """Whether an expression reads a variable that the template does not only assign."""
    # Neither an attribute, nor a part of another name, nor the left side of an assignment.
    use = rf"(?<![\w.]){name}(?!\w)(?!\s*=[^=])"
    return re.search(use, _expressions(source)) is not None


def has_key(source: str, name: str) -> bool:
    """Whether it looks up a key of this name, in whatever object."""
    return re.search(rf"(?:\.\s*|['\"]){name}\b", source) is not None


def has_literal(source: str, text: str) -> bool:
    """Whether a text stands in quotes."""
    return f"'{text}'" in source or f'"{text}"' in source


def asks_for_none(source: str, key: str) -> bool:
    """Whether it asks if the value of a key is none."""
    return re.search(rf"\b{key}\b['\"\]]*\s+is\s+(?:not\s+)?none\b", source) is not None


def needs_parts(source: str) -> bool:
    """Whether it goes through the parts of a content, and does not ask if that is a text."""
    content = r"(?:\.\s*content|\[\s*['\"]content['\"]\s*\])"
    loops = re.search(rf"\bfor\s+\w+\s+in\s+\w+{content}", source) is not None
    return loops and re.search(rf"{content}\s+is\s+(?:not\s+)?string\b", source) is None


@lru_cache(maxsize=64)
def _expressions(source: str) -> str:
    """All that is evaluated, without the texts in quotes."""
    blocks = (match[1] or match[2] or "" for match in _BLOCK.finditer(source))
    return "\n".join(_LITERAL.sub("''", block) for block in blocks)
