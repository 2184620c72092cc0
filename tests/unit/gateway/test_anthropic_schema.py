"""How the fields of Anthropic's requests are handled, and their ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from anthropic.types import content_block_param, message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_params

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.anthropic.blocks import Block, BlockType, TextBlock
from mlxmesh_gateway.anthropic.convert import generate_request
from mlxmesh_gateway.anthropic.schema import (
    CountRequest,
    MessageRequest,
    OutputConfig,
    OutputFormat,
    Thinking,
    Tool,
    ToolChoice,
)
from mlxmesh_gateway.forwarding.routes import PUBLIC_SERVICES
from mlxmesh_gateway.http.schema import Schema, read_request
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.rules import Validator

CLIENTS = Path(__file__).parents[3] / "docs/clients.md"
HI = {"role": "user", "content": "Hi"}
LEAST: dict[str, Any] = {"model": "pocket", "max_tokens": 5, "messages": [HI]}
VALIDATOR = Validator.for_services(*PUBLIC_SERVICES)
_PARALLEL = "tool_choice.disable_parallel_tool_use"
HEADERS = {"betas", "workspace_id"}
"""Parameters of the official client that it sends as headers."""


def read(**fields: Any) -> MessageRequest:
    return read_request(MessageRequest, {**LEAST, **fields})[0]


def block(kind: str, **fields: Any) -> dict[str, Any]:
    first, second = {"type": "text", "text": "a"}, {"type": kind, "a": 1, **fields}
    return {"role": "user", "content": [first, second]}


def tool(**fields: Any) -> dict[str, Any]:
    return {"name": "f", "input_schema": {"type": "object"}, **fields}


def wants(**fields: Any) -> dict[str, Any]:
    """An output_config with a schema."""
    return {"format": {"type": "json_schema", "schema": {"type": "object"}, **fields}}


@pytest.mark.parametrize(
    "params",
    [
        message_create_params.MessageCreateParamsNonStreaming,
        message_create_params.MessageCreateParamsStreaming,
        beta_params.MessageCreateParamsStreaming,
    ],
)
def test_every_field_of_the_official_client_is_known(params: Any) -> None:
    fields = set(params.__required_keys__ | params.__optional_keys__) - HEADERS
    assert fields - MessageRequest.model_fields.keys() == set()


def test_every_field_of_counting_is_known() -> None:
    params: Any = message_count_tokens_params.MessageCountTokensParams
    fields = set(params.__required_keys__ | params.__optional_keys__) - HEADERS
    assert fields - CountRequest.model_fields.keys() == set()


def test_every_block_of_the_official_client_is_known() -> None:
    blocks = get_args(content_block_param.ContentBlockParam)
    types = {get_args(get_type_hints(one)["type"])[0] for one in blocks}
    assert len(types) > 10
    assert types <= set(get_args(BlockType))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metadata", {"user_id": "u"}),
        ("service_tier", "auto"),
        ("cache_control", {"type": "ephemeral"}),
        ("tools", []),
        ("tool_choice", {"type": "auto", "disable_parallel_tool_use": True}),
        ("tool_choice", {"type": "none"}),
        ("thinking", {"type": "disabled"}),
        ("thinking", {"type": "adaptive"}),
        ("output_config", {"effort": None, "format": None}),
        ("tools", [tool(type="custom", allowed_callers=["direct"], defer_loading=False)]),
        ("tools", [tool(cache_control={"type": "ephemeral"}, eager_input_streaming=True)]),
        ("labels", {}),
        ("speed", "standard"),
        ("mcp_servers", []),
        ("context_management", {"edits": []}),
        (
            "context_management",
            {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        ),
        ("diagnostics", {"previous_message_id": None}),
        ("system", None),
        ("system", [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]),
        ("stop_sequences", None),
        ("stream", None),
    ],
)
def test_what_changes_nothing_is_accepted(field: str, value: object) -> None:
    request, unknown = read_request(MessageRequest, {**LEAST, field: value})
    assert unknown == []
    assert generate_request(request).chat.messages[-1].content == "Hi"


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("tools", [{"type": "web_search_20250305", "name": "web_search"}], "tools.0.type"),
        ("tools", [tool(), tool(type="bash_20250124", name="bash")], "tools.1.type"),
        ("tools", [tool(defer_loading=True)], "tools.0.defer_loading"),
        ("tools", [tool(input_examples=[{"a": 1}])], "tools.0.input_examples"),
        (
            "tools",
            [tool(allowed_callers=["code_execution_20250825"])],
            "tools.0.allowed_callers",
        ),
        ("thinking", {"type": "between_tools"}, "thinking.type"),
        ("output_config", {"task_budget": {"total": 1}}, "output_config.task_budget"),
        ("container", "c", "container"),
        ("context_management", {"edits": [{"type": "compact_20260112"}]}, "context_management"),
        ("mcp_servers", [{"url": "u"}], "mcp_servers"),
        ("inference_geo", "eu", "inference_geo"),
        ("speed", "fast", "speed"),
        ("thread", {"type": "create"}, "thread"),
        (
            "messages",
            [block("image", source={"type": "url", "url": "https://a.example/b.png"})],
            "messages.0.content.1.source.type",
        ),
        ("messages", [block("document")], "messages.0.content.1.type"),
        ("messages", [block("server_tool_use")], "messages.0.content.1.type"),
        ("messages", [block("tool_use", toolset_name="t")], "messages.0.content.1.toolset_name"),
        (
            "messages",
            [block("tool_result", content=[{"type": "image"}])],
            "messages.0.content.1.content.0.type",
        ),
        ("system", [{"type": "thinking"}], "system.0.type"),
        ("system", [{"type": "image"}], "system.0.type"),
    ],
)
@pytest.mark.parametrize("refuse_unknown", [False, True])
def test_what_is_not_supported_is_refused_by_name(
    field: str, value: object, named: str, refuse_unknown: bool
) -> None:
    with pytest.raises(FeatureNotSupported) as raised:
        read_request(MessageRequest, {**LEAST, field: value}, refuse_unknown=refuse_unknown)
    assert raised.value.field == named
    assert named in raised.value.message


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("model", 1, "model"),
        ("messages", [], "messages"),
        ("messages", [HI] * 10_001, "messages"),
        ("messages", [{"role": "tool", "content": "a"}], "messages.0.role"),
        ("messages", [{"role": "user"}], "messages.0.content"),
        ("messages", [{"role": "user", "content": 1}], "messages.0.content"),
        ("messages", [{"role": "user", "content": None}], "messages.0.content"),
        ("messages", [{"role": "user", "content": ["a"]}], "messages.0.content.0"),
        ("messages", [block("hologram")], "messages.0.content.1.type"),
        ("system", 1, "system"),
        ("tool_choice", {"type": "some"}, "tool_choice.type"),
        ("tool_choice", {"type": "tool", "name": "a b"}, "tool_choice.name"),
        ("tool_choice", {"type": "auto", "disable_parallel_tool_use": 1}, _PARALLEL),
        ("tools", {}, "tools"),
        ("tools", [tool()] * 129, "tools"),
        ("tools", [{"input_schema": {}}], "tools.0.name"),
        ("tools", [tool(name="")], "tools.0.name"),
        ("tools", [tool(name="f" * 65)], "tools.0.name"),
        ("tools", [tool(name="f\n")], "tools.0.name"),
        ("tools", [tool(description="a" * 65_537)], "tools.0.description"),
        ("tools", [tool(input_schema="{}")], "tools.0.input_schema"),
        ("tools", [tool(strict="yes")], "tools.0.strict"),
        ("thinking", {"type": "sometimes"}, "thinking.type"),
        ("thinking", {"type": "enabled", "budget_tokens": 0}, "thinking.budget_tokens"),
        ("thinking", {"type": "enabled", "budget_tokens": 1_000_001}, "thinking.budget_tokens"),
        ("thinking", {"type": "adaptive", "display": "some"}, "thinking.display"),
        ("output_config", {"effort": "little"}, "output_config.effort"),
        ("output_config", {"format": {"type": "json_schema"}}, "output_config.format.schema"),
        ("output_config", wants(type="xml"), "output_config.format.type"),
        ("output_config", wants(schema="{}"), "output_config.format.schema"),
        ("output_format", {"type": "json_schema"}, "output_format.schema"),
        ("session_id", "a b", "session_id"),
        ("session_id", "s" * 129, "session_id"),
        ("adapter", "../a", "adapter"),
        ("adapter", "a" * 65, "adapter"),
        ("labels", {"A": "b"}, "labels"),
        ("labels", {"a": "b" * 257}, "labels"),
        ("labels", {f"k{number}": "" for number in range(17)}, "labels"),
        ("messages", [block("tool_use", id="")], "messages.0.content.1.id"),
        ("messages", [block("tool_use", id="i" * 129)], "messages.0.content.1.id"),
        ("messages", [block("tool_use", name="a b")], "messages.0.content.1.name"),
        ("messages", [block("tool_use", input="{}")], "messages.0.content.1.input"),
        ("messages", [block("tool_result", tool_use_id=7)], "messages.0.content.1.tool_use_id"),
        ("messages", [block("tool_result", content=7)], "messages.0.content.1.content"),
        ("messages", [block("tool_result", is_error="no")], "messages.0.content.1.is_error"),
        ("stream", "true", "stream"),
        ("temperature", "1", "temperature"),
        ("top_k", 1.5, "top_k"),
        ("stop_sequences", "a", "stop_sequences"),
        ("stop_sequences", [""], "stop_sequences.0"),
        ("stop_token_ids", [-1], "stop_token_ids.0"),
    ],
)
def test_an_illegal_value_is_an_error_that_names_the_field(
    field: str, value: object, named: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read(**{field: value})
    assert raised.value.field.removesuffix(".[key]").startswith(named)
    assert not isinstance(raised.value, FeatureNotSupported)


@pytest.mark.parametrize("field", ["model", "max_tokens", "messages"])
def test_required_fields_are_required(field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read_request(MessageRequest, {key: LEAST[key] for key in LEAST.keys() - {field}})
    assert raised.value.field == field


RANGES: list[tuple[str, list[Any], list[Any]]] = [
    ("max_tokens", [1, 1_000_000], [0, 1_000_001]),
    ("temperature", [0, 10], [-0.1, 10.1, float("inf")]),
    ("top_p", [0.001, 1], [0, 1.1]),
    ("top_k", [0, 1_000_000], [-1, 1_000_001]),
    ("min_p", [0, 1], [-0.1, 1.1]),
    ("repetition_penalty", [0.001, 10], [0, 10.1]),
    ("presence_penalty", [-2, 2], [-2.1, 2.1]),
    ("frequency_penalty", [-2, 2], [-2.1, 2.1]),
    ("seed", [0, 2**64 - 1], [-1, 2**64]),
    ("priority", [-100, 100], [-101, 101]),
    ("stop_sequences", [[], ["a" * 256] * 16], [["a" * 257], ["a"] * 17]),
    ("stop_token_ids", [[], [2**32 - 1] * 64], [[2**32], [1] * 65]),
]


@pytest.mark.parametrize(("field", "legal", "illegal"), RANGES)
def test_ranges_are_those_of_the_contract(field: str, legal: list[Any], illegal: list[Any]) -> None:
    for value in legal:
        VALIDATOR.check(generate_request(read(**{field: value})))
    for value in illegal:
        with pytest.raises(InvalidArgument) as raised:
            read(**{field: value})
        assert raised.value.field.startswith(field)


def thinks(budget: int) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": budget}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("thinking", [thinks(1), thinks(1_000_000)]),
        ("tools", [[tool(name=f"f{number}") for number in range(128)]]),
        ("tools", [[tool(name="f" * 64, description="a" * 65_536, strict=True)]]),
        ("session_id", ["s" * 128]),
        ("adapter", ["a" * 64, "French-2.b_c"]),
        ("labels", [{f"k-{number}": "v" * 256 for number in range(16)}, {"k" * 64: ""}]),
        ("output_config", [wants(), {"effort": "max"}]),
    ],
)
def test_what_is_legal_here_is_legal_in_the_contract(field: str, values: list[Any]) -> None:
    for value in values:
        VALIDATOR.check(generate_request(read(**{field: value})))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tools": [tool(), tool()]}, "tools.1.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.type"),
        ({"tools": [tool()], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [tool()], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"tools": [tool()], "output_config": wants()}, "output_config.format"),
        ({"output_format": wants()["format"], "output_config": wants()}, "output_format"),
    ],
)
def test_fields_that_do_not_fit_together_are_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        generate_request(read(**fields))
    assert raised.value.field == named
    assert raised.value.message.startswith(named)


SCHEMAS = (MessageRequest, Block, TextBlock, Tool, ToolChoice, Thinking, OutputConfig, OutputFormat)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_field_is_documented(schema: type[Schema]) -> None:
    table = CLIENTS.read_text().partition("### Anthropic's messages")[2]
    for name, field in schema.model_fields.items():
        known = field.alias or name
        assert f"`{known}`" in table or f".{known}`" in table


def test_the_contract_allows_no_more_than_that() -> None:
    request = generate_request(read())
    for field, value in (("max_tokens", 1_000_001), ("priority", 101)):
        beyond = pb.GenerateRequest()
        beyond.CopyFrom(request)
        setattr(beyond, field, value)
        with pytest.raises(InvalidArgument):
            VALIDATOR.check(beyond)


def test_unknown_fields_are_told() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "a", "x": 1}], "y": 1}
    _, unknown = read_request(MessageRequest, {**LEAST, "messages": [message], "z": 1})
    assert unknown == ["z", "messages.0.y", "messages.0.content.0.x"]
