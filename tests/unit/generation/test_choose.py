"""Which format is chosen for which template and vocabulary, and why."""

import json
from pathlib import Path

import canitoolcall
import pytest

from mlxmesh.model.v1.model_pb2 import SetOutputFormatRequest
from mlxmesh.model.v1.profile_pb2 import EngineProfile
from mlxmesh_generation.parsers.choose import (
    NONE,
    REASONING_RULES,
    TOOL_RULES,
    Choice,
    ReasoningSwitch,
    choose,
)
from mlxmesh_generation.parsers.registry import REASONING_FORMATS, TOOL_FORMATS
from mlxmesh_shared.rules import describe

# Each as a family's template writes it, reduced to what tells the family.
SHOWS_TOOLS = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
TEMPLATES = {
    "harmony": "{{ '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking }}",
    "kimi_k2": "{{ '<|tool_calls_section_begin|><|tool_call_begin|>' }}",
    "minimax": "{% set begin = '<minimax:tool_call>' %}",
    "deepseek_v32": "{{ '<' + '｜DSML｜' + 'function_calls>' }}{{ message.tool_calls }}",
    "deepseek_v4": "{{ '<｜DSML｜tool_calls>' }}",
    "deepseek_v41": "{{ '<｜DSML｜ calls>' }}{{ message.tool_calls }}",
    "deepseek_v3": "{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + type + '```json' }}",
    "deepseek_v31": "{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + name }}",
    "glm": "{{ '<tool_call>' + name }}<arg_key>{{ key }}</arg_key>",
    "qwen3_coder": "{{ '<tool_call>\\n<function=' + name + '>\\n' }}<parameter=",
    "gemma4": "{{ '<|tool_call>call:' + name }}",
    "granite": "Answer with <|tool_call|> followed by a list.",
    "command": "<|START_ACTION|>[",
    "hermes": '{{- \'<tool_call>\\n{\\"name\\": \\"\' }}',
    "mistral": "{{ '[TOOL_CALLS]' }}",
    "llama_pythonic": "write [func_name1(params_name1=params_value1), func_name2()]",
    "llama3_json": "{{ '<|python_tag|>' }}",
    "json": '{{ "Answer [{\\"name\\": \\"f\\", \\"arguments\\": {}}]" }}',
}


@pytest.mark.parametrize(("name", "source"), TEMPLATES.items())
def test_a_template_tells_its_format_of_tool_calls(name: str, source: str) -> None:
    chosen = choose(SHOWS_TOOLS + source).tools
    assert chosen.name == name
    assert chosen.reason.startswith("the chat template contains ")


def test_a_template_that_only_reads_the_fields_of_calls_tells_no_format() -> None:
    source = """{{ call["function"]["name"] + str(call["function"]["arguments"]) }}"""
    assert choose(SHOWS_TOOLS + source).tools.name == ""


def test_every_format_of_calls_that_is_chosen_has_a_template_here() -> None:
    assert {rule.name for rule in TOOL_RULES} == set(TEMPLATES)


def test_the_reason_is_a_sentence() -> None:
    chosen = choose(SHOWS_TOOLS + TEMPLATES["deepseek_v3"])
    assert chosen.tools.reason == "the chat template contains <｜tool▁calls▁begin｜> and ```json"
    assert chosen.reasoning == Choice(
        "", "the chat template contains no marks of reasoning that are known"
    )


FAMILIES = {
    "gemma4": "gemma4",
    "glm": "glm",
    "gpt-oss": "harmony",
    "llama": "llama3_json",
    "mistral": "mistral",
    "qwen3-hermes": "hermes",
}


@pytest.mark.parametrize(("family", "expected"), FAMILIES.items())
def test_the_marks_of_published_models_are_recognized(family: str, expected: str) -> None:
    fixtures = Path(canitoolcall.__file__).parent / "_data" / "fixtures"
    described = json.loads((fixtures / family / "family.json").read_text(encoding="utf-8"))
    source = SHOWS_TOOLS + "".join(f"{{{{ {json.dumps(mark)} }}}}" for mark in described["markers"])
    assert choose(source).tools.name == expected


def test_the_demonstration_model_is_read_as_hermes() -> None:
    pocket = Path(__file__).parents[3] / "deploy/demo-model/pocket/chat_template.jinja"
    chosen = choose(pocket.read_text(encoding="utf-8"))
    assert (chosen.tools.name, chosen.reasoning.name) == ("hermes", "think")
    assert chosen.takes_tools


def test_tokens_tell_the_format_where_the_template_does_not() -> None:
    chosen = choose(SHOWS_TOOLS, frozenset({"[TOOL_CALLS]", "</s>"}))
    assert chosen.tools == Choice("mistral", "the vocabulary contains [TOOL_CALLS]")
    # Words of many models' vocabularies tell nothing.
    assert choose(SHOWS_TOOLS, frozenset({"<tool_call>", "<think>"})).tools.name == ""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "the model has no chat template"),
        ("{{ messages }}<tool_call>", "the chat template takes no tools"),
        ("{# tools #}{{ 'tools' }}{{ message.tools }}", "the chat template takes no tools"),
        ("{% set tools = 1 %}", "the chat template takes no tools"),
        (SHOWS_TOOLS, "the chat template contains no marks of tool calls that are known"),
    ],
)
def test_without_a_format_the_reason_says_why(source: str | None, reason: str) -> None:
    assert choose(source).tools == Choice("", reason)


def test_a_setting_wins_and_none_switches_off() -> None:
    source = SHOWS_TOOLS + TEMPLATES["hermes"] + "<think>"
    chosen = choose(source, tool_setting="json", reasoning_setting="none")
    assert chosen.tools == Choice("json", "it is set for this model")
    assert chosen.reasoning == Choice("", "it is set to none for this model")
    assert choose(source).reasoning.name == "think"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("{{ '<think>\\n' }}", "think"),
        ("{% set content = content.split('</think>')[-1] %}", "think"),
        ("[THINK]{{ thought }}[/THINK]", "mistral"),
        ("<|START_THINKING|>", "command"),
        ("{% set begin = '<seed:think>' %}", "seed"),
        (TEMPLATES["harmony"], "harmony"),
        ("{{ '<|channel>thought\\n<channel|>' }}", "gemma4"),
    ],
)
def test_a_template_tells_its_format_of_reasoning(source: str, name: str) -> None:
    assert choose(source).reasoning.name == name


@pytest.mark.parametrize(
    ("source", "switch"),
    [
        (
            "{% if enable_thinking is defined and enable_thinking is false %}",
            ReasoningSwitch("enable_thinking"),
        ),
        ("{% if not thinking is defined %}{% set thinking = false %}", ReasoningSwitch("thinking")),
        ("{{ message.thinking }}{% if 'thinking' in message %}{# thinking #}", None),
        ("{% set thinking = message.reasoning %}", None),
        ("{% if thinking_budget == 0 %}", ReasoningSwitch("thinking_budget", on=None, off=0)),
        (
            "{% if reasoning_effort not in ['none', 'high'] %}",
            ReasoningSwitch("reasoning_effort", on="high", off="none"),
        ),
        ("{{ 'Reasoning: ' + reasoning_effort }}", None),
    ],
)
def test_the_switch_is_a_variable_that_the_template_reads(
    source: str, switch: ReasoningSwitch | None
) -> None:
    assert choose(source).switch == switch


def test_effort_and_budget_are_variables_too() -> None:
    source = "{% if reasoning_effort == 'low' or thinking_budget > 5 %}"
    chosen = choose(source)
    assert (chosen.effort, chosen.budget) == ("reasoning_effort", "thinking_budget")
    assert chosen.efforts == {"low"}
    assert (choose("{{ x.reasoning_effort }}").effort, choose("").budget) == ("", "")


def test_every_format_that_may_be_chosen_exists() -> None:
    assert {rule.name for rule in TOOL_RULES} <= set(TOOL_FORMATS)
    assert {rule.name for rule in REASONING_RULES} <= set(REASONING_FORMATS)


@pytest.mark.parametrize("message", [EngineProfile, SetOutputFormatRequest])
def test_the_contract_allows_exactly_the_formats_that_there_are(message: type) -> None:
    fields = message.DESCRIPTOR.fields_by_name
    for name, formats in (("tool_format", TOOL_FORMATS), ("reasoning_format", REASONING_FORMATS)):
        assert describe(fields[name]) == f"matches `{'|'.join((NONE, *formats))}`"
