"""Rules of arguments as Gemma 4 writes them: JSON with its own quotation mark. Pure."""

import json
import re
from collections.abc import Sequence
from typing import cast

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.argument_grammars import escaped
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.grammars import literal, marker
from mlxmesh_generation.parsers.typed_values import Schema, resolved, schema_of, types_of
from mlxmesh_shared.errors import FeatureNotSupported

_NOTES = frozenset({"title", "description", "default", "examples", "$schema", "$id", "$comment"})
_SHARED = frozenset({"$defs", "definitions", "type"})
_KEYWORDS = {
    "string": {"minLength", "maxLength"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
}
_KEY = re.compile(r"[\w-]+( [\w-]+)*")
_INTEGER = r"/-?(0|[1-9][0-9]{0,17})/"
_NUMBER = r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?/"
_ANY = "any"


class GemmaRules:
    """Collects the rules of the arguments of some tools."""

    def __init__(self, quote: str, token_id: TokenId) -> None:
        self.rules: dict[str, str] = {}
        self._quote = quote
        self._token_id = token_id
        self._references: dict[tuple[str, str], str] = {}
        self._tool = ""
        self._root: Schema = {}

    def arguments(self, tool: Tool, *, required: bool) -> str:
        """The arguments with their braces: by the schema if they are to satisfy it."""
        self._tool, self._root = tool.name, schema_of(tool)
        is_free = not required and not tool.strict
        return self._value({"type": "object", **({} if is_free else self._root)}, alone=True)

    def _value(self, schema: object, *, alone: bool) -> str:
        """A value; `alone` if nothing else may stand in its place."""
        if not isinstance(schema, dict):
            return self._any()
        keywords = cast(Schema, schema)
        if "$ref" in keywords:
            return self._reference(keywords)
        for key in ("anyOf", "oneOf"):
            if key in keywords:
                return self._alternatives(key, keywords)
        if "const" in keywords or "enum" in keywords:
            self._check(keywords, {"const", "enum"})
            values = [keywords["const"]] if "const" in keywords else keywords["enum"]
            return "(" + " | ".join(map(self._written, values)) + ")"
        kind = keywords.get("type")
        if isinstance(kind, list):
            types = cast(list[str], kind)
            each = [self._typed(one, keywords, alone=len(types) == 1) for one in types]
            return "(" + " | ".join(each) + ")"
        if kind is None:
            self._check(keywords, set())
            return self._any()
        return self._typed(cast(str, kind), keywords, alone=alone)

    def _typed(self, kind: str, schema: Schema, *, alone: bool) -> str:
        allowed = _KEYWORDS.get(kind, set[str]())
        if isinstance(schema.get("type"), list):
            allowed = allowed.union(*_KEYWORDS.values())
        self._check(schema, allowed)
        match kind:
            case "string":
                return self._string(schema.get("minLength", 0), schema.get("maxLength", ""))
            case "array":
                return self._array(schema)
            case "object":
                return self._object(schema)
            case "boolean":
                return '("true" | "false")'
            case "null":
                return '"null"'
            case _:
                return self._number(kind, schema, alone=alone)

    def _number(self, kind: str, schema: Schema, *, alone: bool) -> str:
        limits = {key: schema[key] for key in sorted(_KEYWORDS["number"]) if key in schema}
        if not limits:
            return _INTEGER if kind == "integer" else _NUMBER
        if not alone:
            raise self._refusal(next(iter(limits)))
        return f"%json {json.dumps({'type': kind, **limits})}"

    def _string(self, least: object = 0, most: object = "") -> str:
        length = "*" if not least and most == "" else f"{{{least},{most}}}"
        quote = marker(self._quote, self._token_id)
        if self._token_id(self._quote) is not None:
            return f"{quote} {self._named(f'/(?s:.{length})/')} {quote}"
        end = escaped(self._quote)
        text = f"/(?s:.{length}){end}/ & ~/(?s:.*){end}(?s:.+)/"
        return f"{quote} {self._named(text, lazy=True)}"

    def _array(self, schema: Schema) -> str:
        item = self._value(schema.get("items", True), alone=True)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return '"[" "]"'
        times = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        items = f'{item} ("," {item}){times}'
        return f'"[" {items} "]"' if least else f'"[" ({items})? "]"'

    def _object(self, schema: Schema) -> str:
        properties = cast(Schema, schema.get("properties", {}))
        needed = cast(Sequence[str], schema.get("required", ()))
        if not properties and not needed:
            if isinstance(schema.get("additionalProperties"), dict):
                raise self._refusal("additionalProperties")
            return '"{" "}"' if schema.get("additionalProperties") is False else self._any_object()
        known = {name: each for name, each in properties.items() if each is not False}
        known |= {name: True for name in needed if name not in properties}
        following, first = '""', '""'
        for name, each in reversed(known.items()):
            member = self._member(name, each)
            option = "" if name in needed else " | " + first
            first = self._rule(f"{member} {following}{option}")
            option = "" if name in needed else " | " + following
            following = self._rule(f'"," {member} {following}{option}')
        return f'"{{" {first} "}}"'

    def _member(self, name: str, schema: object) -> str:
        if not _KEY.fullmatch(name):
            raise self._refusal(f"properties ({name!r})")
        return self._rule(f"{literal(name + ':')} {self._value(schema, alone=True)}")

    def _alternatives(self, key: str, schema: Schema) -> str:
        self._check(schema, {key})
        options = cast(Sequence[object], schema[key])
        types = [types_of(option, self._root) - {"integer"} for option in options]
        if key == "oneOf" and sum(map(len, types)) > len(frozenset[str]().union(*types)):
            raise self._refusal(key)
        return "(" + " | ".join(self._value(each, alone=False) for each in options) + ")"

    def _reference(self, schema: Schema) -> str:
        self._check(schema, {"$ref"})
        key = (self._tool, cast(str, schema["$ref"]))
        is_known = key in self._references
        name = self._references.setdefault(key, f"ref_{len(self._references)}")
        if not is_known:
            target = resolved(schema["$ref"], self._root)
            if target is None:
                raise self._refusal("$ref")
            self.rules[name] = self._value(target, alone=True)
        return name

    def _any(self) -> str:
        if _ANY not in self.rules:
            self.rules[_ANY] = ""
            simple = f'{self._string()} | {_NUMBER} | "true" | "false" | "null"'
            self.rules[_ANY] = f'{simple} | "[" ({_ANY} ("," {_ANY})*)? "]" | {self._any_object()}'
        return _ANY

    def _any_object(self) -> str:
        member = rf'/[a-zA-Z0-9_\-]+/ ":" {self._any()}'
        return f'"{{" ({member} ("," {member})*)? "}}"'

    def _written(self, value: object) -> str:
        if isinstance(value, str):
            quote = marker(self._quote, self._token_id)
            if self._quote in value:
                raise self._refusal("enum")
            return f"{quote} {literal(value)} {quote}"
        if isinstance(value, dict | list):
            raise self._refusal("enum")
        return literal(json.dumps(value))

    def _rule(self, body: str) -> str:
        for name, known in self.rules.items():
            if known == body:
                return name
        name = f"part_{len(self.rules)}"
        self.rules[name] = body
        return name

    def _named(self, terminal: str, *, lazy: bool = False) -> str:
        for name, known in self.rules.items():
            if known == terminal:
                return name.lower()
        name = f"TEXT_{len(self.rules)}"
        self.rules[name] = terminal
        self.rules[name.lower() + ("[lazy]" if lazy else "")] = name
        return name.lower()

    def _check(self, schema: Schema, allowed: set[str]) -> None:
        for keyword in sorted(schema.keys() - allowed - _NOTES - _SHARED):
            raise self._refusal(keyword)

    def _refusal(self, keyword: str) -> FeatureNotSupported:
        return FeatureNotSupported(
            f"The model's format of tool calls cannot guarantee the keyword {keyword} in the "
            f"parameters of tool {self._tool!r}; remove it, or do not require the schema",
            field="tools",
        )
