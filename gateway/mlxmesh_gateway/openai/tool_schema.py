"""Functions that a model may call, as requests have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import Field, PlainValidator

from mlxmesh_gateway.http.schema import Refused, Schema
from mlxmesh_shared.errors import FeatureNotSupported

MAX_TOOLS = 128
FunctionName = Annotated[str, Field(json_schema_extra={"pattern": "^[A-Za-z0-9_.-]{1,64}$"})]
"""What the contract allows is checked at the door."""


class Function(Schema):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON Schema of an object."""
    strict: bool | None = None
    """Whether the arguments of every call satisfy the schema."""


class ChatTool(Schema):
    """A tool of a chat; only functions are honoured."""

    type: str
    function: Function | None = None
    custom: Annotated[Any, Refused("only functions are")] = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether and which tools the model must call."""

    mode: str
    """none, auto or required."""
    name: str = ""
    """The only function that may be called."""
    allowed: frozenset[str] | None = None
    """The functions that the model sees; None for all."""
    server: str = ""
    """The MCP server whose tools, or whose tool `name`, must be called."""
    servers: frozenset[tuple[str, str]] = frozenset()
    """With `allowed`: the MCP servers and the names of their tools that the model sees; an empty
    name for all."""


class _Named(Schema):
    type: Literal["function"]
    function: dict[str, str] | None = None
    name: FunctionName | None = None


class _Allowed(Schema):
    type: Literal["allowed_tools"]
    allowed_tools: dict[str, Any] | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[dict[str, Any]] | None = None


class _OfServer(Schema):
    type: Literal["mcp"]
    server_label: str
    name: str | None = None


_Asked = Literal["none", "auto", "required"] | _Named | _Allowed | None
_AskedOfResponse = Literal["none", "auto", "required"] | _Named | _Allowed | _OfServer | None


def _read_of_response(value: object) -> ToolChoice | None:
    """As _read, with tools of MCP servers."""
    choice = _object(value)
    if choice.get("type") == "mcp":
        server, name = _server_tool(choice)
        return ToolChoice("required", name=name, server=server)
    if choice.get("type") == "allowed_tools" and isinstance(choice.get("tools"), list):
        tools = cast("list[object]", choice["tools"])
        servers = [_server_tool(one) for one in tools if _is_of_server(one)]
        if servers:
            return _allowed_of_servers(choice, tools, frozenset(servers))
    return _read(value)


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _is_of_server(tool: object) -> bool:
    return isinstance(tool, dict) and cast("dict[str, object]", tool).get("type") == "mcp"


def _allowed_of_servers(
    choice: Mapping[str, object], tools: list[object], servers: frozenset[tuple[str, str]]
) -> ToolChoice:
    functions = [one for one in tools if not _is_of_server(one)]
    mode = choice.get("mode")
    if mode not in ("auto", "required"):
        raise ValueError("allowed_tools needs a mode, auto or required, and tools")
    names = frozenset(map(_name, functions))
    return ToolChoice(str(mode), allowed=names, servers=servers)


def _server_tool(choice: object) -> tuple[str, str]:
    asked = cast("dict[str, object]", choice)
    server, name = asked.get("server_label"), asked.get("name")
    if not isinstance(server, str) or not server or not isinstance(name, str | None):
        raise ValueError("a tool of the type mcp needs a server_label")
    return server, name or ""


def _read(value: object) -> ToolChoice | None:
    """Raises: FeatureNotSupported for a kind that OpenAI has and the mesh does not."""
    if value is None:
        return None
    if value in ("none", "auto", "required"):
        return ToolChoice(str(value))
    if not isinstance(value, dict):
        raise ValueError("must be none, auto, required, or an object that names functions")
    choice = cast("dict[str, object]", value)
    kind = choice.get("type")
    if kind == "function":
        return ToolChoice("required", name=_name(choice))
    if kind == "allowed_tools":
        return _allowed(choice)
    raise FeatureNotSupported(
        "tool_choice.type is not supported: function and allowed_tools are",
        field="tool_choice.type",
    )


def _allowed(choice: Mapping[str, object]) -> ToolChoice:
    # Chats have it one level deeper than responses.
    inner = _inner(choice, "allowed_tools")
    mode, tools = inner.get("mode"), inner.get("tools")
    if mode not in ("auto", "required") or not isinstance(tools, list) or not tools:
        raise ValueError("allowed_tools needs a mode, auto or required, and tools")
    names = [_name(one) for one in cast("list[object]", tools)]
    return ToolChoice(str(mode), allowed=frozenset(names))


def _name(choice: object) -> str:
    if isinstance(choice, dict):
        asked = cast("dict[str, object]", choice)
        if asked.get("type") == "function":
            name = _inner(asked, "function").get("name")
            if isinstance(name, str) and name:
                return name
    raise ValueError("each of its tools must be a function with a name")


def _inner(choice: Mapping[str, object], key: str) -> Mapping[str, object]:
    inner = choice.get(key)
    return cast("dict[str, object]", inner) if isinstance(inner, dict) else choice


ToolChoiceField = Annotated[ToolChoice | None, PlainValidator(_read, json_schema_input_type=_Asked)]
"""none, auto, required, or an object that names functions."""
ResponseToolChoice = Annotated[
    ToolChoice | None,
    PlainValidator(_read_of_response, json_schema_input_type=_AskedOfResponse),
]
"""The same, or an object that names tools of MCP servers."""
