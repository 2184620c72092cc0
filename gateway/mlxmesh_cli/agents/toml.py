"""Edits TOML; tomlkit keeps comments, order and whitespace."""

from __future__ import annotations

from typing import Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError

from mlxmesh_cli.agents.formats import KeyPath, UnusableFile


class Toml:
    """The Format of config.toml."""

    def read(self, text: str) -> dict[str, Any]:
        """As of Format."""
        return _parsed(text).unwrap()

    def with_value(self, text: str, path: KeyPath, value: Any) -> str:
        """As of Format."""
        document = _parsed(text)
        table: Any = document
        for depth, key in enumerate(path[:-1]):
            if key not in table:
                table[key] = tomlkit.table(is_super_table=depth < len(path) - 2)
            table = table[key]
        table[path[-1]] = value
        return _checked(document, path, value)

    def without(self, text: str, path: KeyPath) -> str:
        """As of Format."""
        document: Any = _parsed(text)
        table = document
        for key in path[:-1]:
            table = table[key]
        del table[path[-1]]
        return tomlkit.dumps(document)


def _parsed(text: str) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text)
    except TOMLKitError as error:
        raise UnusableFile(f"it is not TOML: {error}") from None


def _checked(document: tomlkit.TOMLDocument, path: KeyPath, value: object) -> str:
    """The text, once it has been read again: a key in the wrong table would be silent."""
    text = tomlkit.dumps(document)
    found: Any = _parsed(text).unwrap()
    for key in path:
        found = cast("dict[str, Any]", found).get(key, {})
    if found != value:
        raise UnusableFile(f"{'.'.join(path)} cannot be set in it; see --print")
    return text
