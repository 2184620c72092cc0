"""The events of a response with MCP tools: a pure state machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlxmesh_gateway.openai.responses.events import Event, ResponseEvents
from mlxmesh_gateway.openai.responses.items import Item
from mlxmesh_gateway.openai.responses.objects import JsonObject, item_id
from mlxmesh_gateway.openai.responses.tool_facts import Listing
from mlxmesh_gateway.openai.responses.tools.items import (
    ApprovalRequest,
    ToolCallItem,
    ToolList,
    listed_tool,
)
from mlxmesh_gateway.openai.tool_schema import Function


class LoopEvents(ResponseEvents):
    """Turns what several generations and the calls between them do, in order, into events."""

    def listed(self, listings: Sequence[Listing], functions: Mapping[str, Function]) -> list[Event]:
        """The tools of the servers."""
        events: list[Event] = []
        for listing in listings:
            tools = [
                listed_tool(functions[one.function], one.name, read_only=one.read_only)
                for one in listing.tools
                if one.function in functions
            ]
            made = ToolList(
                self._new_id("mcpl", ToolList),
                len(self._items),
                listing.label,
                tools,
                listing.error,
            )
            events += self._opened(made) + self._close(len(self._items) - 1, "completed")
        return events

    def generation_ended(self) -> list[Event]:
        """A generation ended, and calls of tools follow."""
        events = self._close_all("completed")
        self._message = self._current = None
        self._calls = 0
        self._logprobs = []
        return events

    def call_begun(
        self, *, label: str, name: str, arguments: str, approval_request_id: str | None = None
    ) -> tuple[ToolCallItem, list[Event]]:
        """A tool is called, as the item says."""
        item = ToolCallItem(
            self._new_id("mcp", ToolCallItem),
            len(self._items),
            label=label,
            name=name,
            arguments=arguments,
            approval_request_id=approval_request_id,
        )
        return item, self._opened(item)

    def call_ended(
        self, item: ToolCallItem, *, output: str | None, error: JsonObject | None
    ) -> list[Event]:
        """A call ended with an output or an error."""
        item.output, item.error = output, error
        return self._close(self._items.index(item), "failed" if error else "completed")

    def call_cut_short(self, *, label: str, name: str, arguments: str) -> list[Event]:
        """The generation ended within the arguments of a call."""
        item, events = self.call_begun(label=label, name=name, arguments=arguments)
        return events + self._close(self._items.index(item), "incomplete")

    def approval_asked(self, *, label: str, name: str, arguments: str) -> tuple[str, list[Event]]:
        """A call waits for an approval, whose request has the id."""
        own_id = self._new_id("mcpr", ApprovalRequest)
        item = ApprovalRequest(
            own_id, len(self._items), label=label, name=name, arguments=arguments
        )
        return own_id, self._opened(item) + self._close(len(self._items) - 1, "completed")

    def _new_id(self, kind: str, cls: type[Item]) -> str:
        return item_id(kind, self._facts.id, self._count(cls))
