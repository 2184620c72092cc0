"""Whether the answer of a cascade's model is good enough. Pure."""

from mlxmesh_generation.domain.ensemble import Cascade
from mlxmesh_generation.domain.request import Chat, FinishReason, GenerationRequest, ToolMode, Tools
from mlxmesh_generation.ensembles.answer import Answer, Call
from mlxmesh_generation.ensembles.json_values import json_value, satisfies

LOW_CONFIDENCE, INVALID, SCHEMA_FAILED = "LOW_CONFIDENCE", "INVALID", "SCHEMA_FAILED"


def shortcoming(answer: Answer, recipe: Cascade, request: GenerationRequest) -> str:
    """Why the next model is asked; empty for an answer that is given."""
    if recipe.require_valid and not is_valid(answer, request):
        return INVALID
    if recipe.json_schema and not satisfies(answer.text, recipe.json_schema):
        return SCHEMA_FAILED
    if recipe.min_mean_logprob is not None:
        score = answer.mean_logprob
        if score is None or score < recipe.min_mean_logprob:
            return LOW_CONFIDENCE
    return ""


def is_valid(answer: Answer, request: GenerationRequest) -> bool:
    """Whether an answer is complete, and has the shape that the request asks for."""
    finished = answer.finished
    if finished.reason is FinishReason.LENGTH:
        return False
    if request.constraint is not None and finished.stop_text is not None:
        return False  # cut short by a stop text
    tools = request.input.tools if isinstance(request.input, Chat) else None
    return tools is None or _are_valid(answer.calls, tools)


def _are_valid(calls: tuple[Call, ...], tools: Tools) -> bool:
    if tools.mode is ToolMode.REQUIRED and not calls:
        return False
    if len(calls) > 1 and not tools.parallel:
        return False
    schemas = {tool.name: tool.parameters for tool in tools.callable}
    return all(call.name in schemas and _is_callable(call, schemas[call.name]) for call in calls)


def _is_callable(call: Call, schema: str) -> bool:
    try:
        if not isinstance(json_value(call.arguments), dict):
            return False
    except ValueError:
        return False
    return not schema or satisfies(call.arguments, schema)
