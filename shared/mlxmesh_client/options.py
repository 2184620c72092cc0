"""The options of a generation, and those that are not fields of the request as they are. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, cast

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_client.building import build
from mlxmesh_shared.errors import InvalidArgument

Message: TypeAlias = tuple[str, str] | Mapping[str, Any]
"""One message: `("user", "Hi")` or `{"role": "user", "content": "Hi"}`.

The roles are system, user, assistant and tool. An assistant's message may have `tool_calls`, each
with `id`, `name` and `arguments` (a mapping, or JSON), and `reasoning_text`. A tool's message has
the `tool_call_id` of its call, and may have `tool_name`. `content` may be a list of texts and
images: the bytes of a file, or its `pathlib.Path`.
"""

ToolSpec: TypeAlias = Mapping[str, Any]
"""A tool: `name`, and optionally `description`, `parameters` (a JSON Schema) and `strict`.

The shape that OpenAI's API has, `{"type": "function", "function": {...}}`, is accepted too.
"""

ToolChoice: TypeAlias = Literal["auto", "none", "required"] | Mapping[str, str]
"""Whether the model calls tools; `{"name": "f"}` for a call of one of them."""

JsonSchema: TypeAlias = Mapping[str, Any] | str
"""A JSON Schema: a mapping, or JSON."""

ServiceTier: TypeAlias = Literal["standard", "flex"]

Effort: TypeAlias = Literal["minimal", "low", "medium", "high"]


class ChatOptions(TypedDict, total=False):
    """What a chat template gets besides the messages."""

    tools: Sequence[ToolSpec]
    """Tools that the model may call, at most 128 with different names. Needs `messages`."""
    reasoning: bool
    """Whether the model reasons before it answers. Default: as its template does."""
    reasoning_effort: Effort
    """How much the model should reason, for templates that take it."""
    reasoning_budget: int
    """The most tokens of reasoning, 1 to 1,000,000."""


class InputOptions(ChatOptions, total=False):
    """The model's input; exactly one of `prompt` and `messages` is required."""

    prompt: str
    messages: Sequence[Message]


class GenerateOptions(InputOptions, total=False):
    """Options of a generation; generation.proto documents their defaults and ranges."""

    token_ids: Sequence[int]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    logit_bias: Mapping[int, float]
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    request_id: str
    detached: bool
    keep_request: bool
    client_data: str
    priority: int
    """Orders the waiting requests of one caller, -100 to 100; higher values start first."""
    service_tier: ServiceTier
    """`flex` runs with what other requests leave, at half the price. Default `standard`."""
    n: int
    """The number of outputs, 1 to 32. `GenerationEvent.index` says which one an event is of."""
    json_schema: JsonSchema
    """A JSON Schema that the output satisfies. At most one constraint may be given."""
    regex: str
    """A regular expression that the whole output matches, in Rust's syntax, without anchors."""
    grammar: str
    """A Lark grammar that the output follows, with a rule `start`."""
    choice: Sequence[str]
    """1 to 1,024 texts, one of which the output equals."""
    json_object: bool
    """Whether the output must be a JSON object."""
    logprobs: int
    """Requests log-probabilities: the chosen token's, and those of the likeliest 0 to 20."""
    prompt_logprobs: bool
    """Whether to report those of the prompt's tokens too; together with `logprobs`, or alone."""
    tool_choice: ToolChoice
    """Default `auto`. Calls that are required have arguments that satisfy their schemas."""
    parallel_tool_calls: bool
    """Whether one output may call several tools. Default true."""
    adapter: str
    """A LoRA adapter of the model; `model:adapter` as the model is the same."""
    session_id: str
    """Sends the requests of one session to one replica; 1 to 128 of A-Z a-z 0-9 . _ : -"""
    labels: Mapping[str, str]
    """At most 16 labels for the generation's telemetry; keys are 1 to 64 of a-z 0-9 _ . -"""


_MODES = {
    "auto": pb.TOOL_MODE_AUTO,
    "none": pb.TOOL_MODE_NONE,
    "required": pb.TOOL_MODE_REQUIRED,
}
_EFFORTS = {
    "minimal": pb.REASONING_EFFORT_MINIMAL,
    "low": pb.REASONING_EFFORT_LOW,
    "medium": pb.REASONING_EFFORT_MEDIUM,
    "high": pb.REASONING_EFFORT_HIGH,
}
_TIERS = {"standard": pb.SERVICE_TIER_STANDARD, "flex": pb.SERVICE_TIER_FLEX}
CONSTRAINTS = ("json_schema", "regex", "grammar", "choice", "json_object")


def chat_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Removes ChatOptions from `values` and returns them as fields of a request."""
    fields: dict[str, Any] = {}
    if "tools" in values:
        tools = _sequence(values.pop("tools"), "tools")
        fields["tools"] = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(tools)]
    if reasoning := _reasoning(values):
        fields["reasoning"] = build(pb.Reasoning, reasoning, path="reasoning.")
    return fields


def output_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Removes what an output has to be from `values` and returns it as fields of a request."""
    fields = _constraint(values)
    if "service_tier" in values:
        fields["service_tier"] = _word(_TIERS, values.pop("service_tier"), "service_tier")
    if "tool_choice" in values:
        fields["tool_choice"] = _tool_choice(values.pop("tool_choice"))
    if "logprobs" in values or values.get("prompt_logprobs"):
        wanted = {"top": values.pop("logprobs", 0), "prompt": values.get("prompt_logprobs", False)}
        fields["logprobs"] = build(pb.Logprobs, wanted, path="logprobs.")
    values.pop("prompt_logprobs", None)
    return fields


def _constraint(values: dict[str, Any]) -> dict[str, Any]:
    given = [name for name in CONSTRAINTS if name in values]
    if len(given) > 1:
        raise InvalidArgument(f"give one of {', '.join(given)}, not several", field=given[1])
    fields = {name: values.pop(name) for name in given}
    if "json_schema" in fields:
        fields["json_schema"] = _as_json(fields["json_schema"], "json_schema")
    if "choice" in fields:
        texts = _sequence(fields["choice"], "choice")
        fields["choice"] = build(pb.Choices, {"texts": texts}, path="choice.")
    if "json_object" in fields:
        wanted = _boolean(fields.pop("json_object"), "json_object")
        return {"json_object": pb.JsonObject()} if wanted else fields
    return fields


def _reasoning(values: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "reasoning" in values:
        fields["enabled"] = _boolean(values.pop("reasoning"), "reasoning")
    if "reasoning_effort" in values:
        effort = values.pop("reasoning_effort")
        fields["effort"] = _word(_EFFORTS, effort, "reasoning_effort")
    if "reasoning_budget" in values:
        fields["budget_tokens"] = values.pop("reasoning_budget")
    return fields


def _tool(tool: object, path: str) -> pb.Tool:
    spec = _mapping(tool, path)
    if spec.get("type") == "function" and "function" in spec:
        spec = _mapping(spec["function"], f"{path}.function")
    fields = {name: value for name, value in spec.items() if value is not None}
    if "parameters" in fields:
        schema = fields.pop("parameters")
        fields["parameters_json_schema"] = _as_json(schema, f"{path}.parameters")
    if not fields.get("name"):
        raise InvalidArgument(f"{path}.name is required", field=f"{path}.name")
    return build(pb.Tool, fields, path=f"{path}.")


def _tool_choice(choice: object) -> pb.ToolChoice:
    if isinstance(choice, Mapping):
        named = cast("Mapping[str, Any]", choice)
        return build(pb.ToolChoice, {"name": named.get("name", "")}, path="tool_choice.")
    return pb.ToolChoice(mode=_word(_MODES, choice, "tool_choice"))


def tool_call(call: object, path: str) -> pb.ToolCall:
    """A call in an assistant's message: a ToolCall, or a mapping. Raises: InvalidArgument."""
    if isinstance(call, pb.ToolCall):
        return call
    fields = dict(_mapping(call, path))
    arguments = fields.get("arguments", "")
    fields["arguments"] = _as_json(arguments, f"{path}.arguments")
    return build(pb.ToolCall, fields, path=f"{path}.")


def _as_json(value: object, field: str) -> str:
    """A mapping as JSON; a text as it is."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(_mapping(value, field), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidArgument(f"{field} is no JSON", field=field) from None


def _mapping(value: object, field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{field} must be a mapping", field=field)
    return cast("Mapping[str, Any]", value)


def _sequence(value: object, field: str) -> Sequence[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InvalidArgument(f"{field} must be a list", field=field)
    return cast("Sequence[Any]", value)


def _boolean(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(f"{field} must be true or false", field=field)
    return value


def _word(known: Mapping[str, Any], value: object, field: str) -> Any:
    if not isinstance(value, str) or value not in known:
        raise InvalidArgument(f"{field} must be one of {', '.join(known)}", field=field)
    return known[value]
