"""Makes tools of what a server lists, and leaves out what is not usable. Pure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from mlxmesh_tools.domain import limits
from mlxmesh_tools.domain.models import Tool
from mlxmesh_tools.domain.naming import function_name


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One entry of a server's list."""

    name: str
    title: str
    description: str
    input_schema: Any
    read_only: bool
    destructive: bool


def usable_tools(server: str, entries: Iterable[Listed]) -> tuple[list[Tool], int]:
    """The tools that are within the limits, by name, and how many others there are."""
    tools = dict[str, Tool]()
    left_out = size_bytes = 0
    for entry in entries:
        tool = _tool(server, entry)
        too_many = len(tools) >= limits.MAX_TOOLS or tool is None or tool.function in tools
        if tool is None or too_many or size_bytes + tool.size_bytes > limits.MAX_TOOLS_BYTES:
            left_out += 1
            continue
        tools[tool.function] = tool
        size_bytes += tool.size_bytes
    return sorted(tools.values(), key=lambda tool: tool.name), left_out


def _tool(server: str, entry: Listed) -> Tool | None:
    if not 0 < len(entry.name) <= limits.MAX_NAME_CHARACTERS or not entry.name.isprintable():
        return None
    schema = _schema(entry.input_schema)
    if schema is None:
        return None
    return Tool(
        server=server,
        name=entry.name,
        function=function_name(server, entry.name),
        title=limits.cut(entry.title, limits.MAX_TITLE_CHARACTERS),
        description=limits.cut(entry.description, limits.MAX_DESCRIPTION_CHARACTERS),
        input_schema=schema,
        read_only=entry.read_only,
        destructive=entry.destructive,
    )


def _schema(value: Any) -> str | None:
    """The schema's JSON; None for one that is too large or too deep."""
    if not isinstance(value, dict) or depth(cast("Any", value)) > limits.MAX_SCHEMA_DEPTH:
        return None
    text = json.dumps(value)
    return text if len(text) <= limits.MAX_SCHEMA_BYTES else None


def depth(value: Any) -> int:
    """How deeply a JSON value is nested; counts no further than twice the limit."""
    level, found = [value], 0
    while level and found <= 2 * limits.MAX_SCHEMA_DEPTH:
        found += 1
        level = [child for each in level for child in _children(each)]
    return found


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).values()
    return cast("list[Any]", value) if isinstance(value, list) else ()
