"""Finds keywords in JSON schemas, and how deeply these are nested. Pure."""

from collections.abc import Iterator
from typing import Any, cast

# The keys below these are names, not keywords.
_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
# What is below these is no schema.
_VALUES = ("enum", "const", "default", "examples", "required")


def find_keyword(schema: Any, keyword: str, value: str | None = None) -> str:
    """The JSON pointer to the first use of a keyword (with this value); empty if there is none."""
    for path, node in _schemas(schema):
        if keyword in node and (value is None or value in _values(node[keyword])):
            return f"{path}/{_escaped(keyword)}"
    return ""


def nesting(value: Any) -> int:
    """How many objects and lists are inside each other at most."""
    depth, level = 0, _children([value])
    while level:
        depth += 1
        level = [child for each in level for child in _children(each)]
    return depth


def _schemas(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """All schemas in a schema with their paths, the outermost first."""
    pending: list[tuple[str, Any]] = [("", schema)]
    while pending:
        path, node = pending.pop(0)
        if isinstance(node, list):
            items = cast("list[Any]", node)
            pending += [(f"{path}/{at}", item) for at, item in enumerate(items)]
        elif isinstance(node, dict):
            found = cast("dict[str, Any]", node)
            yield path, found
            for key, child in found.items():
                pending += _below(f"{path}/{_escaped(key)}", key, child)


def _below(path: str, key: str, child: Any) -> list[tuple[str, Any]]:
    if key in _VALUES:
        return []
    if key in _MAPS_OF_SCHEMAS and isinstance(child, dict):
        named = cast("dict[str, Any]", child)
        return [(f"{path}/{_escaped(name)}", each) for name, each in named.items()]
    return [(path, child)]


def _children(node: Any) -> list[Any]:
    """The objects and lists in an object or a list."""
    inside = cast("dict[str, Any]", node).values() if isinstance(node, dict) else node
    return [child for child in cast("list[Any]", inside) if isinstance(child, dict | list)]


def _values(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
