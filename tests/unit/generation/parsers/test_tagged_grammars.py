"""Outputs that the grammars of formats with tags allow parse to calls that satisfy the schemas."""

import json
from functools import cache

import jsonschema
import pytest

from mlxmesh_generation.domain.request import Tool
from mlxmesh_generation.parsers.parts import ArgumentsPart, CallPart, Part, TextPart, joined
from mlxmesh_generation.parsers.registry import TOOL_FORMATS
from mlxmesh_shared.errors import FeatureNotSupported
from tests.unit.generation.parsers.random_outputs import RandomOutputs
from tests.unit.generation.parsers.tagged_outputs import OUTPUTS

_NAMES = sorted({written.format_name for written in OUTPUTS})
_WRITTEN_OUT = ("qwen3_coder", "glm", "minimax")
"""The formats that do not show which values are strings."""
_TAGGED = (*_WRITTEN_OUT, "deepseek_v32", "gemma4")

_WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 6},
        "days": {"type": "integer", "minimum": 0, "maximum": 20},
        "unit": {"$ref": "#/$defs/unit"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        "deep": {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"enum": ["x", None]}},
            "required": ["b"],
            "additionalProperties": False,
        },
    },
    "required": ["days", "unit"],
    "additionalProperties": False,
    "$defs": {"unit": {"enum": ["c", "f", None]}},
}
_MIXED = {
    "type": "object",
    "properties": {
        "either": {"type": ["integer", "string"]},
        "flag": {"type": "boolean"},
        "one": {"enum": [1, "two", True]},
        "anything": {},
    },
    "required": ["either"],
}
_TOOLS = (
    Tool("get_weather", parameters=json.dumps(_WEATHER), strict=True),
    Tool("get_time", parameters='{"properties": {}, "additionalProperties": false}', strict=True),
    Tool("mixed", parameters=json.dumps(_MIXED), strict=True),
)
_SCHEMAS = {tool.name: json.loads(tool.parameters) for tool in _TOOLS}


@cache
def _model(format_name: str, *, added: bool) -> RandomOutputs:
    markers = tuple(sorted(TOOL_FORMATS[format_name].markers))
    return RandomOutputs(markers if added else (), ends='"}])</>|')


def _parts(format_name: str, output: str) -> list[Part]:
    parser = TOOL_FORMATS[format_name].parser(_TOOLS)
    return joined([*parser.feed(output), *parser.flush()])


def _check_calls(parts: list[Part]) -> int:
    """How many calls there are; all satisfy the schemas."""
    calls = [index for index, part in enumerate(parts) if isinstance(part, CallPart)]
    for index in calls:
        call, arguments = parts[index], parts[index + 1]
        assert isinstance(call, CallPart)
        assert isinstance(arguments, ArgumentsPart)
        jsonschema.validate(json.loads(arguments.text), _SCHEMAS[call.name])
    return len(calls)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("format_name", _NAMES)
def test_required_calls(format_name: str, parallel: bool, added: bool) -> None:
    model = _model(format_name, added=added)
    grammar = TOOL_FORMATS[format_name].grammar(
        _TOOLS, required=True, parallel=parallel, token_id=model.token_id
    )
    ended = [model.output(grammar, seed, max_tokens=600) for seed in range(8)]
    outputs = [output for output in ended if output is not None]
    assert outputs
    for output in outputs:
        parts = _parts(format_name, output)
        assert not any(isinstance(part, TextPart) for part in parts), output
        assert 1 <= _check_calls(parts) <= (len(output) if parallel else 1), output


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("format_name", _NAMES)
def test_text_and_calls(format_name: str, added: bool) -> None:
    model = _model(format_name, added=added)
    grammar = TOOL_FORMATS[format_name].grammar(
        _TOOLS, required=False, parallel=True, token_id=model.token_id
    )
    outputs = [model.output(grammar, seed, max_tokens=300) for seed in range(8)]
    for output in outputs:
        _check_calls(_parts(format_name, output) if output is not None else [])


_ALLOWED = {
    "qwen3_coder": "Hm.\n<tool_call>\n<function=f>\n<parameter=a>\n1 < 2\n</parameter>\n"
    "</function>\n</tool_call>",
    "glm": "Hm.<tool_call>f<arg_key>a</arg_key><arg_value>1 < 2</arg_value></tool_call>",
    "deepseek_v3": "Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n"
    '```json\n{"a": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "deepseek_v31": "Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>"
    '{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "deepseek_v32": 'Hm.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n'
    '<｜DSML｜parameter name="a" string="true">1 < 2</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
    "minimax": 'Hm.\n<minimax:tool_call>\n<invoke name="f">\n'
    '<parameter name="a">1 < 2</parameter>\n</invoke>\n</minimax:tool_call>',
    "kimi_k2": "Hm.<|tool_calls_section_begin|><|tool_call_begin|>functions.f:12"
    '<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|><|tool_calls_section_end|>',
    "gemma4": 'Hm.<|tool_call>call:f{a:<|"|>1 < 2<|"|>,b:[1.5,{c:null}]}<tool_call|>',
    "harmony": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}',
}


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("format_name", sorted(_ALLOWED))
def test_tools_that_are_not_strict_take_any_arguments(format_name: str, added: bool) -> None:
    model = _model(format_name, added=added)
    tools = (Tool("f", parameters=json.dumps(_WEATHER)),)
    grammar = TOOL_FORMATS[format_name].grammar(
        tools, required=False, parallel=True, token_id=model.token_id
    )
    assert model.accepts(grammar, _ALLOWED[format_name])


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "^a"}}}, "pattern"),
        ({"properties": {"a": {"type": "string", "format": "date"}}}, "format"),
        ({"properties": {"a<b": {"type": "string"}}}, "properties"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "$ref"),
    ],
)
@pytest.mark.parametrize("format_name", _TAGGED)
def test_keywords_that_cannot_be_guaranteed(
    format_name: str, schema: dict[str, object], keyword: str
) -> None:
    tools = (Tool("get_it", parameters=json.dumps({"type": "object", **schema}), strict=True),)
    with pytest.raises(FeatureNotSupported) as raised:
        TOOL_FORMATS[format_name].grammar(
            tools, required=False, parallel=True, token_id=lambda _: None
        )
    assert "'get_it'" in raised.value.message
    assert keyword in raised.value.message
    assert raised.value.field == "tools"


@pytest.mark.parametrize("format_name", _WRITTEN_OUT)
def test_a_string_and_a_limited_type_cannot_be_told_apart(format_name: str) -> None:
    either = {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 3}]}
    schema = {"type": "object", "properties": {"a": either}}
    tools = (Tool("get_it", parameters=json.dumps(schema)),)
    with pytest.raises(FeatureNotSupported, match="minimum"):
        TOOL_FORMATS[format_name].grammar(
            tools, required=True, parallel=True, token_id=lambda _: None
        )


@pytest.mark.parametrize("format_name", [*_WRITTEN_OUT, "deepseek_v32"])
def test_a_keyword_of_the_whole_schema(format_name: str) -> None:
    tools = (Tool("get_it", parameters='{"type": "object", "minProperties": 1}'),)
    with pytest.raises(FeatureNotSupported, match="minProperties"):
        TOOL_FORMATS[format_name].grammar(
            tools, required=True, parallel=True, token_id=lambda _: None
        )
