"""The MCP tools of a request: which the model is shown, and which need an approval. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from mlxmesh_gateway.openai.responses.schema import ApprovalFilter, ResponseTool, ToolFilter
from mlxmesh_gateway.openai.responses.tool_facts import Listing, ShownTool
from mlxmesh_gateway.openai.tool_schema import Function, ToolChoice
from mlxmesh_shared.errors import InvalidArgument

_NO_FUNCTION_NAME = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTool:
    """A tool of the mesh that may be called."""

    name: str
    function: str
    function_json: Function
    asks: bool
    """Whether its policy asks for an approval of each call."""
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """The MCP tools of one request."""

    listings: tuple[Listing, ...] = ()
    functions: tuple[Function, ...] = ()
    """As the model is shown the tools."""

    def function_of(self, label: str, name: str) -> str:
        """The name for the model, also of a tool that is not shown any more."""
        tool = self.find(label, name)
        if tool is not None:
            return tool.function
        return _NO_FUNCTION_NAME.sub("_", f"{label}__{name}")[:64]

    def find(self, label: str, name: str) -> ShownTool | None:
        """The tool, if the model is shown it."""
        for listing in self.listings:
            for tool in listing.tools:
                if (listing.label, tool.name) == (label, name):
                    return tool
        return None

    def choice(self, asked: ToolChoice | None) -> ToolChoice | None:
        """A tool choice in which servers' tools are functions. Raises: InvalidArgument."""
        if asked is None or not (asked.server or asked.servers):
            return asked
        if asked.server and asked.name:
            (function,) = self._functions_of({(asked.server, asked.name)})
            return ToolChoice("required", name=function)
        if asked.server:
            allowed = self._functions_of({(asked.server, "")})
            return ToolChoice("required", allowed=frozenset(allowed))
        allowed = self._functions_of(asked.servers)
        return replace(asked, allowed=(asked.allowed or frozenset()) | allowed, servers=frozenset())

    def _functions_of(self, wanted: Collection[tuple[str, str]]) -> set[str]:
        found: set[str] = set()
        for label, name in wanted:
            tools = {
                tool.function
                for listing in self.listings
                for tool in listing.tools
                if listing.label == label and name in ("", tool.name)
            }
            if not tools:
                raise InvalidArgument(
                    "tool_choice names a tool of an MCP server that is not among tools",
                    field="tool_choice",
                )
            found |= tools
        return found


NO_TOOLS = Toolbox()


def toolbox_of(
    asked: Sequence[tuple[ResponseTool, Sequence[ServerTool], str]], own: Collection[str]
) -> Toolbox:
    """The tools that a request may use.

    asked: each tool of the type mcp, what its server offers, and why it offers nothing.
    own: the names of the client's functions. Raises: InvalidArgument.
    """
    listings: list[Listing] = []
    functions: list[Function] = []
    for tool, offered, error in asked:
        chosen = [one for one in offered if _matches(tool.allowed_tools, one)]
        shown = tuple(
            ShownTool(
                name=one.name,
                function=one.function,
                asks=one.asks or _asks(tool, one),
                read_only=one.read_only,
            )
            for one in chosen
        )
        listings.append(Listing(label=tool.server_label or "", tools=shown, error=error))
        functions += [one.function_json for one in chosen]
    if both := {one.name for one in functions} & set(own):
        raise InvalidArgument(
            f"tools has a function {sorted(both)[0]}, which is the name of a tool of an MCP server;"
            " give the function another name",
            field="tools",
        )
    return Toolbox(listings=tuple(listings), functions=tuple(functions))


def _asks(asked: ResponseTool, tool: ServerTool) -> bool:
    """Whether the request wants to approve calls of a tool; what it does not exempt, it does."""
    rule = asked.require_approval
    if isinstance(rule, ApprovalFilter):
        if rule.always is not None and _matches(rule.always, tool):
            return True
        return rule.never is None or not _matches(rule.never, tool)
    return rule != "never"


def _matches(wanted: Iterable[str] | ToolFilter | None, tool: ServerTool) -> bool:
    if wanted is None:
        return True
    if not isinstance(wanted, ToolFilter):
        return tool.name in wanted
    if wanted.read_only is not None and wanted.read_only != tool.read_only:
        return False
    return wanted.tool_names is None or tool.name in wanted.tool_names


def as_arguments(text: str) -> str | None:
    """The arguments of a call as a JSON object; None if the model wrote something else."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None
    return (text or "{}") if isinstance(value, dict) else None
