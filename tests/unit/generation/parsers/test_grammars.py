"""Outputs that the grammars of tool calls allow parse to calls that satisfy the schemas."""

import json
from collections.abc import Callable, Iterator
from functools import cache

import jsonschema
import pytest

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.parts import ArgumentsPart, CallPart, Part, TextPart, joined
from mlxmesh_generation.parsers.registry import TOOL_FORMATS
from tests.unit.generation.parsers.random_outputs import RandomOutputs

_NAMES = ("hermes", "llama3_json", "llama_pythonic", "mistral", "granite", "command", "json")
_AROUND_TEXT = ("<|START_RESPONSE|>", "<|END_RESPONSE|>")

_WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 6},
        "days": {"type": "integer", "minimum": 0, "maximum": 20},
        "unit": {"$ref": "#/$defs/unit"},
        "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["days", "unit"],
    "additionalProperties": False,
    "$defs": {"unit": {"enum": ["c", 'f"', None]}},
}
_EITHER = {
    "anyOf": [
        {"properties": {"a-b": {"const": 1}}, "required": ["a-b"], "additionalProperties": False},
        {"properties": {"c": {"enum": ["x", "y"]}}, "additionalProperties": False},
    ]
}
_TOOLS = (
    Tool("get_weather", parameters=json.dumps(_WEATHER)),
    Tool("get_time", parameters='{"properties": {}, "additionalProperties": false}'),
    Tool("either.or-both", parameters=json.dumps(_EITHER), strict=True),
)
_SCHEMAS = {tool.name: json.loads(tool.parameters) for tool in _TOOLS}


@cache
def _model(format_name: str, *, added: bool) -> RandomOutputs:
    markers = (*sorted(TOOL_FORMATS[format_name].markers), *_AROUND_TEXT)
    return RandomOutputs(markers if added else ())


def _grammar(format_name: str, *, required: bool, parallel: bool, added: bool) -> str:
    model = _model(format_name, added=added)
    return TOOL_FORMATS[format_name].grammar(
        _TOOLS, required=required, parallel=parallel, token_id=model.token_id
    )


def _parts(format_name: str, output: str) -> list[Part]:
    parser = TOOL_FORMATS[format_name].parser(_TOOLS)
    for marker in _AROUND_TEXT:
        output = output.replace(marker, "")
    return joined([*parser.feed(output), *parser.flush()])


def _check_calls(parts: list[Part], checked: Callable[[str], bool]) -> int:
    """How many calls there are; all satisfy the schemas."""
    calls = [index for index, part in enumerate(parts) if isinstance(part, CallPart)]
    for index in calls:
        call, arguments = parts[index], parts[index + 1]
        assert isinstance(call, CallPart)
        assert isinstance(arguments, ArgumentsPart)
        value = json.loads(arguments.text)
        assert isinstance(value, dict)
        schema = _SCHEMAS[call.name]
        if checked(call.name):
            jsonschema.validate(value, {"type": "object", **schema})
    return len(calls)


def _outputs(format_name: str, grammar: str, *, added: bool, count: int) -> Iterator[str]:
    model = _model(format_name, added=added)
    ended = [model.output(grammar, seed) for seed in range(count)]
    found = [output for output in ended if output is not None]
    assert len(found) > count // 2
    yield from found


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("format_name", _NAMES)
def test_required_calls(format_name: str, parallel: bool, added: bool) -> None:
    grammar = _grammar(format_name, required=True, parallel=parallel, added=added)
    counts = set[int]()
    for output in _outputs(format_name, grammar, added=added, count=20):
        parts = _parts(format_name, output)
        assert not any(isinstance(part, TextPart) for part in parts), output
        counts.add(_check_calls(parts, lambda _: True))
    assert min(counts) == 1
    assert (max(counts) > 1) == parallel


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("format_name", _NAMES)
def test_strict_tools_in_text(format_name: str, parallel: bool, added: bool) -> None:
    grammar = _grammar(format_name, required=False, parallel=parallel, added=added)
    for output in _outputs(format_name, grammar, added=added, count=20):
        calls = _check_calls(_parts(format_name, output), "either.or-both".__eq__)
        assert parallel or calls <= 1


_TIME, _EITHER_CALL = "{}", '{"c": "x"}'
_TEMPLATES = {
    "hermes": '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>\n'
    '<tool_call>\n{"name": "either.or-both", "arguments": {"c": "x"}}\n</tool_call>',
    "llama3_json": '{"name": "get_time", "parameters": {}}; '
    '{"name": "either.or-both", "parameters": {"c": "x"}}',
    "llama_pythonic": '[get_time(**{}), either.or-both(**{"c": "x"})]',
    "mistral": '[TOOL_CALLS]get_time[ARGS]{}[TOOL_CALLS]either.or-both[ARGS]{"c": "x"}',
    "granite": '<|tool_call|>[{"name": "get_time", "arguments": {}}, '
    '{"name": "either.or-both", "arguments": {"c": "x"}}]',
    "command": '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_time", '
    '"parameters": {}},\n    {"tool_call_id": "1", "tool_name": "either.or-both", '
    '"parameters": {"c": "x"}}\n]<|END_ACTION|>',
    "json": '[{"name": "get_time", "arguments": {}}, '
    '{"name": "either.or-both", "arguments": {"c": "x"}}]',
}


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("format_name", _NAMES)
def test_what_templates_write_is_allowed(format_name: str, required: bool) -> None:
    grammar = _grammar(format_name, required=required, parallel=True, added=True)
    model = _model(format_name, added=True)
    output = _TEMPLATES[format_name]
    assert model.accepts(grammar, output)
    assert not model.accepts(grammar, output.replace("get_time", "get_date"))
    assert not model.accepts(grammar, output.replace('"x"', '"z"'))
    one = _grammar(format_name, required=required, parallel=False, added=True)
    assert not model.accepts(one, output)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("format_name", _NAMES)
def test_text_is_allowed_only_where_calls_are_not_required(format_name: str, added: bool) -> None:
    model = _model(format_name, added=added)
    for output in ("Hello.", "<b> [1] {2} \n", ""):
        free = _grammar(format_name, required=False, parallel=True, added=added)
        assert model.accepts(free, output), output
        forced = _grammar(format_name, required=True, parallel=True, added=added)
        assert not model.accepts(forced, output), output


def test_text_and_calls_of_hermes() -> None:
    model = _model("hermes", added=False)
    grammar = _grammar("hermes", required=False, parallel=True, added=False)
    output = "One. <tool_" + "call> Two"
    assert not model.accepts(grammar, output)
    assert model.accepts(grammar, f"One <tool_ {_TEMPLATES['hermes']} two <tool_call")


def test_command_writes_its_answers_between_added_tokens() -> None:
    model = _model("command", added=True)
    grammar = _grammar("command", required=False, parallel=True, added=True)
    assert model.accepts(grammar, "<|START_RESPONSE|>Hello.<|END_RESPONSE|>")


def test_arguments_are_free_in_the_text_of_a_tool_that_is_not_strict() -> None:
    model = _model("hermes", added=False)
    output = '<tool_call>\n{"name": "get_weather", "arguments": {"city": 1}}\n</tool_call>'
    free = _grammar("hermes", required=False, parallel=True, added=False)
    forced = _grammar("hermes", required=True, parallel=True, added=False)
    assert model.accepts(free, output)
    assert not model.accepts(forced, output)
