"""Grammars of arguments that are written one by one, mostly without JSON syntax. Pure.

What the text of a value stands for is decided by `typed_values`; these grammars allow only text
that then satisfies the schema.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.typed_values import (
    ANY_TYPE,
    Schema,
    as_json,
    resolved,
    schema_of,
    types_of,
)
from mlxmesh_shared.errors import FeatureNotSupported

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$comment", "$schema", "$id"}
)
_DEFINITIONS = frozenset({"$defs", "definitions"})
_OBJECT = frozenset({"type", "properties", "required", "additionalProperties", "strict"})
_LENGTHS = frozenset({"minLength", "maxLength"})
_LISTS = frozenset({"enum", "const"})
_NO_KEY = frozenset("<>\"'&\n")
_MAX_DEPTH = 8


@dataclass(frozen=True)
class Text:
    """Any text whose length in characters lies between these bounds."""

    least: int = 0
    most: int | None = None


@dataclass(frozen=True)
class Value:
    """What a grammar allows as the value of one argument."""

    texts: tuple[str, ...] = ()
    """Only these, as strings."""
    text: Text | None = None
    """A string."""
    json: Schema | None = None
    """JSON of this schema that is no string."""


@dataclass(frozen=True)
class Argument:
    """An argument that a tool takes."""

    name: str
    is_required: bool
    value: Value


def arguments_of(tool: Tool, *, typed: bool) -> list[Argument]:
    """The arguments of a tool, in the order of its schema.

    typed: the format shows which values are strings. Raises: FeatureNotSupported if a keyword of
    the schema cannot be guaranteed.
    """
    reader = _SchemaReader(tool, typed=typed)
    return reader.arguments()


class _SchemaReader:
    def __init__(self, tool: Tool, *, typed: bool) -> None:
        self._tool = tool
        self._root = schema_of(tool)
        self._typed = typed

    def arguments(self) -> list[Argument]:
        schema = self._object(self._root)
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        for keyword, kind in (("properties", dict), ("required", list)):
            if not isinstance(schema.get(keyword, kind()), kind):
                raise self._refusal(keyword)
        names = [*properties, *(name for name in required if name not in properties)]
        return [
            Argument(name, name in required, self._value(name, properties.get(name, True)))
            for name in names
            if properties.get(name, True) is not False
        ]

    def _object(self, schema: Schema) -> Schema:
        if isinstance(reference := schema.get("$ref"), str):
            schema = self._resolved(reference)
        for keyword in sorted(schema.keys() - _OBJECT - _ANNOTATIONS - _DEFINITIONS):
            raise self._refusal(keyword)
        return schema

    def _value(self, name: str, schema: object) -> Value:
        if not _NO_KEY.isdisjoint(name):
            raise self._refusal(f"properties ({name!r})")
        if "string" not in types_of(schema, self._root):
            return Value(json=self._whole(cast(Schema, schema)))
        leaves = list(self._leaves(schema, 0))
        strings = [leaf for leaf in leaves if "string" in types_of(leaf, self._root)]
        others = [leaf for leaf in leaves if leaf not in strings]
        return self._explicit(strings, others) if self._typed else self._written(strings, others)

    def _explicit(self, strings: Sequence[Schema], others: Sequence[Schema]) -> Value:
        """A value of a format that shows which values are strings."""
        listed, free = self._strings(strings)
        rest = [self._whole(leaf) for leaf in others]
        rest += [
            {"enum": values}
            for leaf in strings
            if (values := [value for value in _listed(leaf) if not isinstance(value, str)])
        ]
        if any(types_of(leaf, self._root) == ANY_TYPE for leaf in strings if not _listed(leaf)):
            rest.append({"type": sorted(ANY_TYPE - {"string", "integer"})})
        return Value(listed, free, {"anyOf": rest} if rest else None)

    def _written(self, strings: Sequence[Schema], others: Sequence[Schema]) -> Value:
        """A value whose text may also be JSON of another type."""
        listed, free = self._strings(strings)
        if free is None:
            return Value(texts=self._unmistakable(listed, strings, others))
        if free == Text():
            for leaf in others:
                for keyword in sorted(leaf.keys() - {"type"} - _ANNOTATIONS - _DEFINITIONS):
                    raise self._refusal(keyword)
        elif any(leaf.get("type") != "null" for leaf in others) or listed:
            raise self._refusal("minLength" if free.least else "maxLength")
        return Value(text=free)

    def _unmistakable(
        self, listed: Sequence[str], strings: Sequence[Schema], others: Sequence[Schema]
    ) -> tuple[str, ...]:
        """The listed values, as they are written, that are read as what they are."""
        values: list[object] = [*listed]
        values += [value for leaf in strings for value in _listed(leaf)]
        for leaf in others:
            if leaf.get("type") != "null" and not _listed(leaf):
                raise self._refusal("type")
            values += _listed(leaf) or [None]
        types = frozenset[str]().union(
            *(types_of(leaf, self._root) for leaf in (*strings, *others))
        )
        written = {_written(value): value for value in values}
        kept = [
            text for text, value in written.items() if json.loads(as_json(text, types)) == value
        ]
        if not kept:
            raise self._refusal("enum")
        return tuple(kept)

    def _strings(self, leaves: Sequence[Schema]) -> tuple[tuple[str, ...], Text | None]:
        """The strings that are listed, and other strings that are allowed."""
        listed = [value for leaf in leaves for value in _listed(leaf) if isinstance(value, str)]
        free = [leaf for leaf in leaves if not _listed(leaf)]
        texts = [self._text(leaf) for leaf in free]
        if len(texts) > 1 and Text() not in texts:
            raise self._refusal("anyOf")
        text = Text() if Text() in texts else next(iter(texts), None)
        if text is not None and listed and text != Text():
            raise self._refusal("anyOf")
        return tuple(dict.fromkeys(listed)) if text is None else (), text

    def _text(self, leaf: Schema) -> Text:
        for keyword in sorted(leaf.keys() - {"type"} - _LENGTHS - _ANNOTATIONS - _DEFINITIONS):
            raise self._refusal(keyword)
        for keyword in _LENGTHS & leaf.keys():
            if not isinstance(leaf[keyword], int):
                raise self._refusal(keyword)
        return Text(leaf.get("minLength", 0), leaf.get("maxLength"))

    def _leaves(self, schema: object, depth: int) -> Iterable[Schema]:
        """The schemas without alternatives that a schema consists of."""
        if depth > _MAX_DEPTH:
            raise self._refusal("$ref")
        if not isinstance(schema, dict):
            yield {}
            return
        keywords = cast(Schema, schema)
        alternatives = [key for key in ("$ref", "anyOf", "oneOf", "allOf") if key in keywords]
        if not alternatives:
            yield from _by_type(keywords)
            return
        key = alternatives[0]
        for other in sorted(keywords.keys() - {key, "type"} - _ANNOTATIONS - _DEFINITIONS):
            raise self._refusal(other)
        inner = [self._resolved(keywords[key])] if key == "$ref" else keywords[key]
        if (key == "allOf" and len(inner) > 1) or (key == "oneOf" and self._overlap(inner)):
            raise self._refusal(key)
        for each in inner:
            yield from self._leaves(each, depth + 1)

    def _overlap(self, schemas: Sequence[object]) -> bool:
        types = [types_of(schema, self._root) - {"integer"} for schema in schemas]
        return sum(map(len, types)) > len(frozenset[str]().union(*types))

    def _resolved(self, reference: str) -> Schema:
        schema = resolved(reference, self._root)
        if not isinstance(schema, dict):
            raise self._refusal("$ref")
        return cast(Schema, schema)

    def _whole(self, schema: Schema) -> Schema:
        """A schema that stands alone: with what it refers to."""
        definitions = {key: self._root[key] for key in _DEFINITIONS if key in self._root}
        for reference in _references((schema, definitions)):
            if not reference.startswith(("#/$defs/", "#/definitions/")):
                raise self._refusal("$ref")
        return {**schema, **definitions}

    def _refusal(self, keyword: str) -> FeatureNotSupported:
        return FeatureNotSupported(
            f"The model's format of tool calls cannot guarantee the keyword {keyword} in the "
            f"parameters of tool {self._tool.name!r}; remove it, or do not require the schema",
            field="tools",
        )


def _by_type(schema: Schema) -> Iterable[Schema]:
    """One schema for each type; one that lists its values stays whole."""
    types = schema.get("type")
    if not isinstance(types, list) or _LISTS & schema.keys():
        yield schema
        return
    for each in cast(list[str], types):
        yield {"type": each} if each == "null" else {**schema, "type": each}


def _listed(schema: Schema) -> list[object]:
    return [schema["const"]] if "const" in schema else list(schema.get("enum", []))


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _references(schema: object) -> Iterable[str]:
    """All references inside a schema."""
    if isinstance(schema, dict):
        for key, value in cast(Schema, schema).items():
            if key == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(schema, list | tuple):
        for value in cast(Sequence[object], schema):
            yield from _references(value)
