"""How the fields of Anthropic's requests are handled, and their ranges."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
from anthropic.types import content_block_param, message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_params

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.anthropic.convert import generate_request
from mlxmesh_gateway.anthropic.schema import BlockType, CountRequest, MessageRequest
from mlxmesh_gateway.forwarding.routes import BACKENDS
from mlxmesh_gateway.http.schema import read_request
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.rules import Validator

HI = {"role": "user", "content": "Hi"}
LEAST: dict[str, Any] = {"model": "pocket", "max_tokens": 5, "messages": [HI]}
VALIDATOR = Validator.for_services(*BACKENDS.values())
HEADERS = {"betas", "workspace_id"}
"""Parameters of the official client that it sends as headers."""


def read(**fields: Any) -> MessageRequest:
    return read_request(MessageRequest, {**LEAST, **fields})[0]


def block(kind: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": kind, "a": 1}]}


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
        ("output_config", {"effort": "high"}),
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
        ("tools", [{"name": "f", "input_schema": {}}], "tools"),
        ("tool_choice", {"type": "any"}, "tool_choice.type"),
        ("thinking", {"type": "enabled", "budget_tokens": 1024}, "thinking.type"),
        ("thinking", {"type": "adaptive"}, "thinking.type"),
        ("output_config", {"effort": "low"}, "output_config.effort"),
        ("output_config", {"format": {"type": "json_schema"}}, "output_config.format"),
        ("output_format", {"type": "json_schema"}, "output_format"),
        ("container", "c", "container"),
        ("context_management", {"edits": [{"type": "compact_20260112"}]}, "context_management"),
        ("mcp_servers", [{"url": "u"}], "mcp_servers"),
        ("inference_geo", "eu", "inference_geo"),
        ("speed", "fast", "speed"),
        ("thread", {"type": "create"}, "thread"),
        ("session_id", "s", "session_id"),
        ("adapter", "a", "adapter"),
        ("messages", [block("image")], "messages.0.content.1.type"),
        ("messages", [block("document")], "messages.0.content.1.type"),
        ("messages", [block("tool_result")], "messages.0.content.1.type"),
        ("messages", [block("thinking")], "messages.0.content.1.type"),
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
    assert raised.value.field == named
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
