"""Fields of a response that repeat what its request asked for. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.openai.convert import tier_name
from mlxmesh_gateway.openai.responses.objects import JsonObject
from mlxmesh_gateway.openai.responses.tool_facts import LoopFacts

_MODES = {pb.TOOL_MODE_NONE: "none", pb.TOOL_MODE_AUTO: "auto", pb.TOOL_MODE_REQUIRED: "required"}
_EFFORTS = {
    pb.REASONING_EFFORT_MINIMAL: "minimal",
    pb.REASONING_EFFORT_LOW: "low",
    pb.REASONING_EFFORT_MEDIUM: "medium",
    pb.REASONING_EFFORT_HIGH: "high",
}


def settings_of(request: pb.GenerateRequest, text_format: Mapping[str, Any]) -> JsonObject:
    """Those that are not the defaults. text_format: what a format has beside its schema."""
    found: JsonObject = {}
    if request.tools:
        found["tools"] = [_tool(one) for one in request.tools]
    if request.HasField("tool_choice"):
        found["tool_choice"] = _tool_choice(request.tool_choice)
    if request.HasField("parallel_tool_calls"):
        found["parallel_tool_calls"] = request.parallel_tool_calls
    if shown := _format(request, text_format):
        found["text"] = {"format": shown}
    if effort := _effort(request.reasoning):
        found["reasoning"] = {"effort": effort, "summary": None}
    if request.logprobs.top:
        found["top_logprobs"] = request.logprobs.top
    if tier := tier_name(request):
        found["service_tier"] = tier
    return found


def tool_settings(settings: Mapping[str, Any], loop: LoopFacts | None) -> JsonObject:
    """Those of a response with tools of MCP servers, which its generations have as functions."""
    if loop is None:
        return {}
    functions = [
        one for one in settings.get("tools", ()) if loop.tool_of(str(one.get("name"))) is None
    ]
    found: JsonObject = {"tools": [*functions, *loop.shown]}
    if loop.choice is not None:
        found["tool_choice"] = loop.choice
    if loop.max_tool_calls is not None:
        found["max_tool_calls"] = loop.max_tool_calls
    return found


def _tool(tool: pb.Tool) -> JsonObject:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description or None,
        "parameters": json.loads(tool.parameters_json_schema or "null"),
        "strict": tool.strict,
    }


def _tool_choice(choice: pb.ToolChoice) -> str | JsonObject:
    if choice.name:
        return {"type": "function", "name": choice.name}
    return _MODES.get(choice.mode, "auto")


def _format(request: pb.GenerateRequest, text_format: Mapping[str, Any]) -> JsonObject | None:
    match request.WhichOneof("constraint"):
        case "json_object":
            return {"type": "json_object"}
        case "json_schema":
            schema = json.loads(request.json_schema)
            return {"type": "json_schema", **text_format, "schema": schema}
        case _:
            return None


def _effort(reasoning: pb.Reasoning) -> str | None:
    if reasoning.HasField("enabled") and not reasoning.enabled:
        return "none"
    return _EFFORTS.get(reasoning.effort)
