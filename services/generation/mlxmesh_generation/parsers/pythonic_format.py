"""Llama's format of tool calls in Python. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers import grammars
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.grammars import arguments_schema, literal
from mlxmesh_generation.parsers.parts import OutputParser
from mlxmesh_generation.parsers.pythonic import END, START, PythonicParser

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SIMPLE = {"type", "properties", "required", "$defs", "definitions", "additionalProperties"}
_NOTES = {"title", "description", "$schema", "$id", "examples", "default"}


class LlamaPythonic:
    """A grammar makes values as JSON, which the parser reads too.

    Where a schema is more than a list of properties, all arguments are one object: `f(**{...})`.
    """

    name = "llama_pythonic"
    markers = frozenset((START, END))

    def parser(self, tools: Sequence[Tool]) -> OutputParser:
        return PythonicParser({tool.name: tuple(_properties(tool)) for tool in tools})

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        rules = {
            "start": "calls",
            "calls": f'"[" {grammars.repeated("call", ", ", parallel=parallel)} "]"',
            "call": " | ".join(f"call_{index}" for index in range(len(tools))),
        }
        if not required:
            text = grammars.without((START,), regex=r"[ \t\r\n]*[^ \t\r\n\[](?s:.*)")
            rules |= {"start": 'TEXT | calls | ""', "TEXT": text}
        for index, tool in enumerate(tools):
            rules[f"call_{index}"] = f'{literal(tool.name + "(")} arguments_{index} ")"'
            rules |= _arguments(f"arguments_{index}", arguments_schema(tool, required=required))
        return grammars.rules(rules)


LLAMA_PYTHONIC = LlamaPythonic()


def _properties(tool: Tool) -> Mapping[str, Any]:
    properties = grammars.tool_schema(tool).get("properties", {})
    return cast("dict[str, Any]", properties) if isinstance(properties, dict) else {}


def _arguments(name: str, schema: Mapping[str, Any]) -> dict[str, str]:
    properties = cast("Mapping[str, Any]", schema.get("properties", {}))
    needed = set(cast("Sequence[str]", schema.get("required", ())))
    simple = (
        schema.keys() <= _SIMPLE | _NOTES
        and properties
        and needed <= properties.keys()
        and all(map(_IDENTIFIER.fullmatch, properties))
    )
    if not simple:
        return {name: f'"**" {name}_object', f"{name}_object": f"%json {json.dumps(schema)}"}
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return _keywords(name, properties, needed, shared)


def _keywords(
    name: str, properties: Mapping[str, Any], needed: set[str], shared: Mapping[str, Any]
) -> dict[str, str]:
    """Keyword arguments in the order of the schema; those that are not needed may be missing."""
    rules = {name: f"{name}_first_0"}
    for index, (key, schema) in enumerate(properties.items()):
        value = f"{name}_value_{index}"
        rules[value] = f"%json {json.dumps({**shared, **schema} if schema and shared else schema)}"
        # After an argument, the next one needs a comma.
        for place, comma in (("first", ""), ("next", ", ")):
            present = f"{literal(f'{comma}{key}=')} {value} {name}_next_{index + 1}"
            missing = "" if key in needed else f" | {name}_{place}_{index + 1}"
            rules[f"{name}_{place}_{index}"] = present + missing
    last = len(properties)
    return rules | {f"{name}_first_{last}": '""', f"{name}_next_{last}": '""'}
