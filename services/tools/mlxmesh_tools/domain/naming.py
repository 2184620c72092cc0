"""The names of tools for models. Pure."""

import re
from hashlib import sha256

MAX_CHARACTERS = 64
_HASH_CHARACTERS = 8
_LEGAL = re.compile(r"[A-Za-z0-9_-]+")
_ILLEGAL_CHARACTER = re.compile(r"[^A-Za-z0-9_-]")


def function_name(server: str, tool: str) -> str:
    """The name of a tool for models: server__tool, of A-Z a-z 0-9 _ -, at most 64 characters.

    Names of two servers never meet, because no server's name contains __ or ends in _. A name of
    a tool that is illegal or too long is changed, and ends in a hash of it.
    """
    plain = f"{server}__{tool}"
    if len(plain) <= MAX_CHARACTERS and _LEGAL.fullmatch(plain):
        return plain
    digest = sha256(tool.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARACTERS]
    room = MAX_CHARACTERS - len(server) - len("__") - len("_") - _HASH_CHARACTERS
    return f"{server}__{_ILLEGAL_CHARACTER.sub('_', tool)[:room]}_{digest}"
