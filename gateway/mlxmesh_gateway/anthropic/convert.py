"""Converts between Anthropic's JSON and the contracts' messages."""

from __future__ import annotations

import json
from typing import cast

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh.model.v1.model_pb2 import Model, ModelVersion
from mlxmesh_gateway.anthropic.events import (
    SIGNATURE,
    text_block,
    thinking_block,
    tool_use_block,
    whole_message,
)
from mlxmesh_gateway.anthropic.options.convert import (
    output_schema,
    reasoning_of,
    set_tool_choice,
    tools_of,
)
from mlxmesh_gateway.anthropic.schema import CountRequest, MessageRequest
from mlxmesh_gateway.anthropic.stream.convert import output_usage, stop_of, version_of
from mlxmesh_gateway.anthropic.turns.convert import chat_input
from mlxmesh_shared.reference import ModelReference

DEFAULT_TEMPERATURE = 1.0
"""Anthropic's; the contract's is 0."""
BROKEN_INPUT = "INVALID_JSON"
"""The only name in the input of a call whose arguments are no JSON object, and then their text."""

# Requests.


def generate_request(request: MessageRequest, *, request_id: str = "") -> pb.GenerateRequest:
    """Raises: InvalidArgument, FeatureNotSupported."""
    generation = pb.GenerateRequest(
        model=request.model,
        chat=chat_input(request),
        max_tokens=request.max_tokens,
        sampling=_sampling(request),
        stop=request.stop_sequences,
        stop_token_ids=request.stop_token_ids,
        ignore_eos=bool(request.ignore_eos),
        priority=request.priority or 0,
        request_id=request_id,
        session_id=request.session_id or "",
        adapter=request.adapter or "",
        labels=request.labels or {},
        tools=tools_of(request),
        reasoning=reasoning_of(request),
    )
    if (schema := output_schema(request)) is not None:
        generation.json_schema = schema
    set_tool_choice(generation, request)
    return generation


def count_request(request: CountRequest) -> pb.CountTokensRequest:
    """Raises: InvalidArgument, FeatureNotSupported."""
    return pb.CountTokensRequest(
        model=request.model,
        chat=chat_input(request),
        tools=tools_of(request),
        reasoning=reasoning_of(request),
    )


def shows_thinking(request: MessageRequest) -> bool:
    """Whether thinking blocks have their text."""
    return request.thinking is None or request.thinking.display != "omitted"


def _sampling(request: MessageRequest) -> Sampling:
    temperature = request.temperature
    return Sampling(
        temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=request.seed,
    )


# Responses.


def message_object(
    response: pb.CompleteResponse, *, show_thinking: bool = True
) -> dict[str, object]:
    """A whole response. Raises: GenerationCancelled."""
    started, finished = response.started, response.finished
    stop = stop_of(finished)
    return whole_message(
        started.request_id,
        version_of(started),
        _content(response, show_thinking=show_thinking),
        stop,
        output_usage(finished),
    )


def _content(response: pb.CompleteResponse, *, show_thinking: bool) -> list[dict[str, object]]:
    """The blocks; an output without any has an empty text."""
    thinking, text = response.reasoning_text, response.text
    blocks = [thinking_block(thinking if show_thinking else "", SIGNATURE)] if thinking else []
    if text or not (thinking or response.tool_calls):
        blocks.append(text_block(text))
    return [*blocks, *map(_tool_use, response.tool_calls)]


def _tool_use(call: pb.ToolCall) -> dict[str, object]:
    return tool_use_block(call.id, call.name, _arguments(call.arguments))


def _arguments(text: str) -> dict[str, object]:
    """The arguments of a call; a model that is not constrained may write what is no object."""
    try:
        value: object = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    return cast("dict[str, object]", value) if isinstance(value, dict) else {BROKEN_INPUT: text}


# Models.


def references(model: Model) -> list[str]:
    """What a model may be called: its name, and the name with each alias and each adapter."""
    aliases = sorted(model.aliases.keys() - {"default"})
    names = (*aliases, *(adapter.name for adapter in model.adapters))
    return [model.name, *(f"{model.name}:{name}" for name in names)]


def model_object(model: Model, reference: str) -> dict[str, object]:
    """The version that a reference of the model stands for, as Anthropic lists models."""
    version = _referenced(model, reference)
    tokens = version.context_tokens or None
    return {
        "type": "model",
        "id": reference,
        "display_name": reference,
        "created_at": version.create_time.ToJsonString(),
        "lifecycle": "active",
        "max_input_tokens": tokens,
        "max_tokens": tokens,
    }


def _referenced(model: Model, reference: str) -> ModelVersion:
    """An empty version where the model has none, which is created at the epoch."""
    parsed = ModelReference.parse(reference)
    number = parsed.version or model.aliases.get(parsed.alias or "", model.default_version)
    return next((one for one in model.versions if one.version == number), ModelVersion())
