"""Output items of MCP tools, each of which makes its own events. Pure.

Source: `openai.types.responses`, the classes McpCall, McpListTools, McpApprovalRequest and
ResponseMcp*Event.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlxmesh_gateway.openai.responses.items import Body, OutputItem
from mlxmesh_gateway.openai.responses.objects import JsonObject
from mlxmesh_gateway.openai.tool_schema import Function


class _ToolItem(OutputItem):
    """Has no text that comes in pieces."""

    delta_name = ""
    delta_head = ""


class ToolList(_ToolItem):
    """Satisfies Item: the tools of a server."""

    def __init__(
        self, item_id: str, output_index: int, label: str, tools: Sequence[JsonObject], error: str
    ) -> None:
        super().__init__(item_id, output_index)
        self._label = label
        self._tools = list(tools)
        self._error = error

    def opened(self) -> list[Body]:
        return [
            self._event("added", {**self._item(), "tools": [], "error": None}),
            ("response.mcp_list_tools.in_progress", self._place),
        ]

    def closed(self, status: str) -> list[Body]:
        outcome = "failed" if self._error else "completed"
        return [
            (f"response.mcp_list_tools.{outcome}", self._place),
            self._event("done", self._item()),
        ]

    def as_output(self, status: str) -> JsonObject:
        return self._item()

    def _item(self) -> JsonObject:
        return {
            "id": self.id,
            "type": "mcp_list_tools",
            "server_label": self._label,
            "tools": self._tools,
            "error": self._error or None,
        }


class ToolCallItem(_ToolItem):
    """Satisfies Item: a call of a tool; `output` and `error` are set before it is closed."""

    def __init__(
        self,
        item_id: str,
        output_index: int,
        *,
        label: str,
        name: str,
        arguments: str,
        approval_request_id: str | None,
    ) -> None:
        super().__init__(item_id, output_index)
        self.output: str | None = None
        self.error: JsonObject | None = None
        self._fixed: JsonObject = {
            "id": item_id,
            "type": "mcp_call",
            "server_label": label,
            "name": name,
            "approval_request_id": approval_request_id,
        }
        self._arguments = arguments

    def opened(self) -> list[Body]:
        whole = self._arguments
        return [
            self._event("added", self._item("in_progress", "")),
            ("response.mcp_call.in_progress", self._place),
            ("response.mcp_call_arguments.delta", {**self._place, "delta": whole}),
            ("response.mcp_call_arguments.done", {**self._place, "arguments": whole}),
        ]

    def closed(self, status: str) -> list[Body]:
        outcome = "completed" if status == "completed" else "failed"
        return [
            (f"response.mcp_call.{outcome}", self._place),
            self._event("done", self.as_output(status)),
        ]

    def as_output(self, status: str) -> JsonObject:
        return self._item(status, self._arguments)

    def _item(self, status: str, arguments: str) -> JsonObject:
        return {
            **self._fixed,
            "status": status,
            "arguments": arguments,
            "output": self.output,
            "error": self.error,
        }


class ApprovalRequest(_ToolItem):
    """Satisfies Item: asks the client whether a tool may be called."""

    def __init__(
        self, item_id: str, output_index: int, *, label: str, name: str, arguments: str
    ) -> None:
        super().__init__(item_id, output_index)
        self._item: JsonObject = {
            "id": item_id,
            "type": "mcp_approval_request",
            "server_label": label,
            "name": name,
            "arguments": arguments,
        }

    def opened(self) -> list[Body]:
        return [self._event("added", self._item)]

    def closed(self, status: str) -> list[Body]:
        return [self._event("done", self._item)]

    def as_output(self, status: str) -> JsonObject:
        return self._item


def listed_tool(function: Function, name: str, *, read_only: bool) -> JsonObject:
    """A tool in a list."""
    return {
        "name": name,
        "description": function.description,
        "input_schema": function.parameters or {"type": "object"},
        "annotations": {"readOnlyHint": read_only},
    }
