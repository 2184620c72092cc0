"""What is kept of a response whose gateway calls MCP tools. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

MAX_ROUNDS = 65
"""Generations of one response: one for each call of a tool at most, and the last one."""
MAX_TOOL_CALLS = MAX_ROUNDS - 1
NOT_CALLED = "The limit of tool calls of this response was reached; this call was not made."
"""What the model is told of calls beyond the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTool:
    """An MCP tool as the model was shown it."""

    name: str
    """At its server."""
    function: str
    """For the model."""
    asks: bool
    """Whether calls wait for an approval."""
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The tools of one server, or why they are missing."""

    label: str
    tools: tuple[ShownTool, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopFacts:
    """Of one response; the messages of its last generation hold the rest."""

    listings: tuple[Listing, ...] = ()
    shown: tuple[dict[str, Any], ...] = ()
    """The tools of MCP servers as the response repeats them."""
    choice: str | dict[str, Any] | None = None
    """The tool choice as the response repeats it."""
    max_tool_calls: int | None = None
    inputs: int = 0
    """Messages before the first output, without instructions."""
    approved: tuple[tuple[str, str], ...] = ()
    """The ids of calls that were approved, and of the requests for the approvals."""
    errors: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """By the ids of calls that failed."""
    usage: dict[str, Any] | None = None
    """Of the generations before this one."""
    created_s: float = 0.0
    until_s: float = 0.0
    """When the gateway stops at the latest, as Unix time."""

    def tool_of(self, function: str) -> tuple[str, ShownTool] | None:
        """The server's label and the tool behind a function; None for a function of the client."""
        for listing in self.listings:
            for tool in listing.tools:
                if tool.function == function:
                    return listing.label, tool
        return None

    def with_usage(self, usage: Mapping[str, Any]) -> LoopFacts:
        """After one more generation."""
        return replace(self, usage=summed(self.usage or {}, usage))

    def with_errors(self, errors: Mapping[str, dict[str, Any]]) -> LoopFacts:
        """After calls of which these failed, by their ids."""
        return replace(self, errors={**self.errors, **errors})


def summed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The token counts of both."""
    return {key: _sum(one.get(key), value) for key, value in other.items()}


def _sum(one: Any, other: Any) -> Any:
    return (one or 0) + other if isinstance(other, int) else summed(one or {}, other)
