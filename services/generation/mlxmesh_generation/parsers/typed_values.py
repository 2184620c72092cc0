"""Arguments without JSON syntax: the types that a schema gives them, and their JSON. Pure."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

from mlxmesh_generation.domain.request import Tool

ANY_TYPE = frozenset({"string", "number", "integer", "boolean", "array", "object", "null"})
_NUMBERS = frozenset({"number", "integer"})
# A schema may refer to itself.
_MAX_DEPTH = 8
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}
_NULL = "null"

Schema = Mapping[str, Any]


def quoted(text: str) -> str:
    """A JSON string."""
    return json.dumps(text, ensure_ascii=False)


class ArgumentTypes:
    """The types of the arguments of some tools."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._roots = {tool.name: schema_of(tool) for tool in tools}

    def has(self, tool: str) -> bool:
        return tool in self._roots

    def of(self, tool: str, argument: str) -> frozenset[str]:
        """The types that the argument may have; all of them if the schema does not say."""
        root = self._roots.get(tool, {})
        properties = root.get("properties")
        if not isinstance(properties, dict) or argument not in properties:
            return ANY_TYPE
        return types_of(cast(object, properties[argument]), root)


def schema_of(tool: Tool) -> Schema:
    """The schema of a tool's parameters; empty if it has none that can be read."""
    try:
        schema = json.loads(tool.parameters or "{}")
    except (ValueError, RecursionError):
        return {}
    return cast(Schema, schema) if isinstance(schema, dict) else {}


def types_of(schema: object, root: Schema, depth: int = 0) -> frozenset[str]:
    """The types of the values that a schema allows, as far as its keywords show them."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return ANY_TYPE
    keywords = cast(Schema, schema)
    types = _named_types(keywords) & _listed_types(keywords)
    if isinstance(reference := keywords.get("$ref"), str):
        types &= types_of(resolved(reference, root), root, depth + 1)
    for keyword in ("anyOf", "oneOf"):
        if isinstance(options := keywords.get(keyword), list):
            each = [types_of(option, root, depth + 1) for option in cast(list[object], options)]
            types &= frozenset[str]().union(*each)
    if isinstance(parts := keywords.get("allOf"), list):
        for part in cast(list[object], parts):
            types &= types_of(part, root, depth + 1)
    return types or ANY_TYPE


def resolved(reference: str, root: Schema) -> object:
    """What a reference within the same schema refers to; None if there is nothing."""
    node: object = root
    if not reference.startswith("#"):
        return None
    for key in reference[1:].split("/")[1:]:
        if not isinstance(node, dict):
            return None
        node = cast(Schema, node).get(key.replace("~1", "/").replace("~0", "~"))
    return node


def _named_types(keywords: Schema) -> frozenset[str]:
    named = keywords.get("type")
    names = cast(list[object], named) if isinstance(named, list) else [named]
    types = ANY_TYPE & {name for name in names if isinstance(name, str)}
    return (types | _NUMBERS if "number" in types else types) or ANY_TYPE


def _listed_types(keywords: Schema) -> frozenset[str]:
    """The types of the values that are listed, if the schema lists values."""
    if "const" in keywords:
        values: Iterable[object] = [keywords["const"]]
    elif isinstance(listed := keywords.get("enum"), list) and listed:
        values = cast(list[object], listed)
    else:
        return ANY_TYPE
    return frozenset[str]().union(*(_types_of_value(value) for value in values))


def _types_of_value(value: object) -> frozenset[str]:
    match value:
        case bool():
            return frozenset({"boolean"})
        case int():
            return _NUMBERS
        case float():
            return _NUMBERS if value.is_integer() else frozenset({"number"})
        case str():
            return frozenset({"string"})
        case list():
            return frozenset({"array"})
        case dict():
            return frozenset({"object"})
        case _:
            return frozenset({_NULL})


def as_json(text: str, types: Collection[str]) -> str:
    """The JSON that a written value stands for.

    A value that may be a string is one unless it is JSON of another type that it may have.
    """
    written = text.strip()
    value, is_json = _parsed(written)
    if is_json and not isinstance(value, str) and not _types_of_value(value).isdisjoint(types):
        return written
    if "string" in types:
        return quoted(text)
    word = _PYTHON_WORDS.get(written)
    if word is not None and not _types_of_value(json.loads(word)).isdisjoint(types):
        return word
    return written if is_json else quoted(text)


def _parsed(text: str) -> tuple[object, bool]:
    try:
        return json.loads(text, parse_constant=_refuse), True
    except (ValueError, RecursionError):
        return None, False


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


class StringPieces:
    """A JSON string, shown while its text comes; with `null`, the text null stands for that."""

    def __init__(self, show: Callable[[str], None], *, null: bool) -> None:
        self._show = show
        # Not shown yet, because it may become null; None once it cannot.
        self._held: str | None = "" if null else None
        if not null:
            show('"')

    def add(self, text: str) -> None:
        if self._held is not None:
            text = self._held + text
            if _NULL.startswith(text):
                self._held = text
                return
            self._held = None
            self._show('"')
        self._show(quoted(text)[1:-1])

    def end(self, *, cut: bool) -> None:
        if self._held == _NULL and not cut:
            self._show(_NULL)
            return
        if self._held is not None:
            self._show('"' + self._held)
        if not cut:
            self._show('"')
