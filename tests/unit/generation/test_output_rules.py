"""What a request means for its model's template, parser and constraint."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mlxmesh_generation.domain.request import (
    Chat,
    ChatTurn,
    GenerationRequest,
    OutputConstraint,
    Reasoning,
    Tool,
    ToolMode,
    Tools,
)
from mlxmesh_generation.parsers.choose import Choice, choose
from mlxmesh_generation.parsers.formats import TokenId
from mlxmesh_generation.parsers.parts import ArgumentsPart, CallPart, Part, ReasoningPart, TextPart
from mlxmesh_generation.parsers.registry import REASONING_FORMATS, TOOL_FORMATS
from mlxmesh_generation.placement.sequence import EngineConstraint
from mlxmesh_generation.streams import output_rules as rules
from mlxmesh_generation.streams.output_rules import ModelFormat
from mlxmesh_shared.errors import FeatureNotSupported, IllegalState
from mlxmesh_shared.reference import ModelReference

TAKES_TOOLS = "{{ tools }}<tool_call>"
SWITCHED = "{{ enable_thinking }}<think></think>"
TURNS = (ChatTurn("user", "hello"),)
WEATHER, NOW = Tool("weather"), Tool("now")
TOOLS = Tools((WEATHER, NOW))
SCHEMA = OutputConstraint("json_schema", '{"type": "object"}')
OPEN, CLOSED, SILENT = (
    "<|user|>hello<think>\n",
    "hello<think>\n\n</think>\n\n",
    "hello<|assistant|>",
)
END_IDS = (7, 8)


def model(source: str, **settings: str) -> ModelFormat:
    chosen = choose(source, **settings)
    return ModelFormat(
        "pocket@1",
        chosen,
        TOOL_FORMATS[chosen.tools.name] if chosen.tools.name else None,
        REASONING_FORMATS[chosen.reasoning.name] if chosen.reasoning.name else None,
    )


def chat(
    tools: Tools | None = None,
    enabled: bool | None = None,
    effort: str = "",
    budget: int | None = None,
) -> Chat:
    return Chat(TURNS, tools=tools, reasoning=Reasoning(enabled, effort, budget))


def asking(source: Chat, constraint: OutputConstraint | None = None) -> GenerationRequest:
    return GenerationRequest("r", ModelReference("pocket"), source, constraint=constraint)


def constraint(
    source: Chat, form: ModelFormat, prompt: str, own: OutputConstraint | None = None
) -> EngineConstraint | None:
    request = asking(source, own)
    encode = {"</think>": END_IDS}.__getitem__
    return rules.chat_constraint(
        request, source, form, prompt, token_id=lambda text: None, encode=encode
    )


# What cannot be done.


@pytest.mark.parametrize(
    ("source", "asked", "field"),
    [
        ("{{ messages }}<tool_call>", chat(TOOLS), "tools"),
        ("{{ tools }}", chat(TOOLS), "tools"),
        ("{{ messages }}", chat(Tools((NOW,), ToolMode.NONE)), "tools"),
        ("{{ messages }}", chat(enabled=True), "reasoning.enabled"),
        ("<think>", chat(enabled=False), "reasoning.enabled"),
        ("{{ messages }}", chat(budget=5), "reasoning.budget_tokens"),
        ("{{ enable_thinking }}", chat(budget=5), "reasoning.budget_tokens"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_its_field(
    source: str, asked: Chat, field: str
) -> None:
    with pytest.raises(FeatureNotSupported, match=field) as caught:
        rules.check_chat(asked, model(source))
    assert caught.value.field == field
    assert "pocket@1" in caught.value.message


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        (TAKES_TOOLS, chat(TOOLS)),
        ("{{ tools }}", chat(Tools((NOW,), ToolMode.NONE))),
        ("<think>", chat(enabled=True, budget=5)),
        ("{{ messages }}", chat(enabled=False, effort="low")),
        (SWITCHED, chat(enabled=False)),
        ("{{ enable_thinking }}", chat(enabled=True)),
    ],
)
def test_what_a_model_can_do_passes(source: str, asked: Chat) -> None:
    rules.check_chat(asked, model(source))


def test_an_unknown_setting_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(IllegalState, match="hermes, json") as caught:
        rules.known_format(
            Choice("hermse", ""), {"json": 1, "hermes": 2}, "tool format", "pocket@1"
        )
    assert "tool format of pocket@1 is set to hermse" in caught.value.message
    assert rules.known_format(Choice("", ""), {}, "tool format", "pocket@1") is None


# What the template gets.


@pytest.mark.parametrize(
    ("source", "asked", "expected"),
    [
        ("{{ messages }}", Reasoning(True, "high", 9), {}),
        ("{{ enable_thinking }}", Reasoning(), {}),
        ("{{ enable_thinking }}", Reasoning(True), {"enable_thinking": True}),
        ("{{ thinking }}", Reasoning(False), {"thinking": False}),
        ("{{ reasoning_effort }}", Reasoning(effort="high"), {"reasoning_effort": "high"}),
        ("{{ reasoning_effort }}", Reasoning(effort="minimal"), {"reasoning_effort": "low"}),
        (
            "{{ reasoning_effort == 'minimal' }}",
            Reasoning(effort="minimal"),
            {"reasoning_effort": "minimal"},
        ),
        (
            "{{ reasoning_effort in ['none', 'high'] }}",
            Reasoning(False),
            {"reasoning_effort": "none"},
        ),
        (
            "{{ reasoning_effort in ['none', 'high'] }}",
            Reasoning(True, "low"),
            {"reasoning_effort": "low"},
        ),
        ("{{ thinking_budget }}", Reasoning(None, "", 9), {"thinking_budget": 9}),
        ("{{ thinking_budget }}", Reasoning(False), {"thinking_budget": 0}),
        ("{{ thinking_budget }}", Reasoning(True), {}),
    ],
)
def test_a_template_gets_only_variables_that_it_reads(
    source: str, asked: Reasoning, expected: Mapping[str, Any]
) -> None:
    assert rules.template_variables(asked, choose(source)) == expected


@pytest.mark.parametrize(
    ("asked", "own", "enabled"),
    [
        (chat(), None, None),
        (chat(TOOLS), None, None),
        (chat(), SCHEMA, False),
        (chat(replace(TOOLS, mode=ToolMode.REQUIRED)), None, False),
        (chat(replace(TOOLS, mode=ToolMode.NONE)), None, False),
        (chat(enabled=True), SCHEMA, True),
        (chat(effort="low"), SCHEMA, None),
        (chat(budget=9), SCHEMA, None),
    ],
)
def test_a_constraint_switches_reasoning_off_unless_it_was_asked_for(
    asked: Chat, own: OutputConstraint | None, enabled: bool | None
) -> None:
    switched = rules.checked(asking(asked, own), asked, model(TAKES_TOOLS + SWITCHED))
    assert switched.reasoning.enabled is enabled
    fixed = rules.checked(asking(asked, own), asked, model(TAKES_TOOLS + "<think>"))
    assert fixed.reasoning == asked.reasoning


# What the engine enforces.


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (None, None),
        (SCHEMA, EngineConstraint("json_schema", SCHEMA.text, field="json_schema")),
        (
            OutputConstraint("json_object", ""),
            EngineConstraint("json_schema", '{"type": "object"}', field="json_object"),
        ),
        (OutputConstraint("regex", "a+"), EngineConstraint("regex", "a+", field="regex")),
        (
            OutputConstraint("grammar", "start: A"),
            EngineConstraint("lark", "start: A", field="grammar"),
        ),
        (OutputConstraint("choice", '["a"]'), EngineConstraint("choices", '["a"]', field="choice")),
    ],
)
def test_a_constraint_of_the_caller(
    own: OutputConstraint | None, expected: EngineConstraint | None
) -> None:
    assert rules.plain_constraint(own) == expected
    assert constraint(chat(), model("{{ messages }}"), SILENT, own) == expected


@pytest.mark.parametrize(
    ("source", "asked", "prompt", "own", "prefix", "budget"),
    [
        ("<think>", chat(), OPEN, SCHEMA, END_IDS, None),
        ("<think>", chat(), SILENT, SCHEMA, (), None),
        ("<think>", chat(enabled=True), SILENT, SCHEMA, END_IDS, None),
        ("<think>", chat(budget=9), SILENT, None, END_IDS, 9),
        ("<think>", chat(budget=9), OPEN, SCHEMA, END_IDS, 9),
        (SWITCHED, chat(enabled=False), CLOSED, SCHEMA, (), None),
        (SWITCHED, chat(budget=9), CLOSED, SCHEMA, (), None),
        (SWITCHED, chat(enabled=True, budget=9), SILENT, None, END_IDS, 9),
        (SWITCHED, chat(enabled=False, budget=9), SILENT, SCHEMA, (), None),
    ],
)
def test_reasoning_before_a_constrained_answer_is_free(
    source: str,
    asked: Chat,
    prompt: str,
    own: OutputConstraint | None,
    prefix: Sequence[int],
    budget: int | None,
) -> None:
    found = constraint(asked, model(source), prompt, own)
    assert found is not None
    assert (found.prefix_end_token_ids, found.prefix_max_tokens) == (tuple(prefix), budget)
    assert found.grammar == ("json_schema" if own else "")


@pytest.mark.parametrize("prompt", [OPEN, CLOSED, SILENT])
def test_without_constraint_and_budget_nothing_is_enforced(prompt: str) -> None:
    assert constraint(chat(TOOLS, enabled=True), model(TAKES_TOOLS + SWITCHED), prompt) is None


class RecordedFormat:
    """A format of calls that notes what grammar was asked for."""

    name = "recorded"
    markers = frozenset({"<call>"})

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], bool, bool]] = []

    def parser(self, tools: Sequence[Tool]) -> "CallsOnly":
        return CallsOnly(tools)

    def grammar(
        self, tools: Sequence[Tool], *, required: bool, parallel: bool, token_id: TokenId
    ) -> str:
        self.asked.append(([tool.name for tool in tools], required, parallel))
        return "start: CALLS"


class CallsOnly:
    """Reads every text as the name of a call of one of its tools."""

    in_reasoning = False

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._names = {tool.name for tool in tools}

    def feed(self, text: str) -> list[Part]:
        if text in self._names:
            return [CallPart(text), ArgumentsPart("{}")]
        return [TextPart(text)] if text else []

    def flush(self) -> list[Part]:
        return []


@pytest.mark.parametrize(
    ("tools", "grammar"),
    [
        (TOOLS, None),
        (replace(TOOLS, mode=ToolMode.NONE), None),
        (replace(TOOLS, mode=ToolMode.REQUIRED), (["weather", "now"], True, True)),
        (
            replace(TOOLS, mode=ToolMode.REQUIRED, only="now", parallel=False),
            (["now"], True, False),
        ),
        (replace(TOOLS, only="now"), (["now"], False, True)),
        (replace(TOOLS, parallel=False), (["weather", "now"], False, False)),
        (
            Tools((WEATHER, replace(NOW, strict=True))),
            (["weather", "now"], False, True),
        ),
    ],
)
def test_calls_follow_a_grammar_where_the_request_needs_it(
    tools: Tools, grammar: tuple[list[str], bool, bool] | None
) -> None:
    form = RecordedFormat()
    found = constraint(chat(tools), replace(model(TAKES_TOOLS), tools=form), SILENT)
    assert form.asked == ([grammar] if grammar else [])
    expected = EngineConstraint("lark", "start: CALLS", field="tools") if grammar else None
    assert found == expected


def test_a_grammar_of_calls_comes_after_reasoning() -> None:
    form = replace(model(TAKES_TOOLS + "<think>"), tools=RecordedFormat())
    found = constraint(chat(replace(TOOLS, mode=ToolMode.REQUIRED)), form, OPEN)
    assert found is not None
    assert (found.text, found.prefix_end_token_ids) == ("start: CALLS", END_IDS)


def test_only_the_template_knows_whether_a_silent_prompt_means_reasoning() -> None:
    switched = model(TAKES_TOOLS + SWITCHED)
    strict = Tools((replace(NOW, strict=True),))
    assert rules.is_undecided(chat(strict), switched, SILENT)
    assert rules.is_undecided(chat(budget=9), switched, SILENT)
    for prompt in (OPEN, CLOSED):
        assert not rules.is_undecided(chat(strict), switched, prompt)
    assert not rules.is_undecided(chat(TOOLS), switched, SILENT)
    assert not rules.is_undecided(chat(strict, enabled=False), switched, SILENT)
    assert not rules.is_undecided(chat(strict), model(TAKES_TOOLS + "<think>"), SILENT)


# How the output is read.


def read(source: Chat, form: ModelFormat, prompt: str, *texts: str) -> list[Part]:
    reading = rules.reading(source, form, prompt)
    assert reading is not None
    parser = reading.new_parser()
    parts = [part for text in texts for part in parser.feed(text)]
    return [*parts, *parser.flush()]


def test_a_model_without_formats_is_not_parsed() -> None:
    assert rules.reading(chat(), model("{{ messages }}"), SILENT) is None
    assert rules.reading(chat(), model(TAKES_TOOLS), SILENT) is None
    none = chat(replace(TOOLS, mode=ToolMode.NONE))
    assert rules.reading(none, model(TAKES_TOOLS), SILENT) is None


def test_reasoning_is_split_off_and_calls_are_parsed_only_with_tools() -> None:
    form = replace(model(TAKES_TOOLS + "<think>"), tools=RecordedFormat())
    thought = [ReasoningPart("hm")]
    assert read(chat(), form, OPEN, "hm", "</think>", "now") == [*thought, TextPart("now")]
    called = [*thought, CallPart("now"), ArgumentsPart("{}")]
    assert read(chat(TOOLS), form, OPEN, "hm", "</think>", "now") == called
    assert read(chat(TOOLS), form, CLOSED, "now") == called[1:]


def test_only_a_tool_that_may_be_called_is_one() -> None:
    form = replace(model(TAKES_TOOLS), tools=RecordedFormat())
    only = chat(replace(TOOLS, only="now"))
    assert read(only, form, SILENT, "now") == [CallPart("now"), ArgumentsPart("{}")]
    assert read(only, form, SILENT, "weather") == [TextPart("weather")]


def test_a_parser_sees_the_marks_of_both() -> None:
    form = replace(model(TAKES_TOOLS + "<think>"), tools=RecordedFormat())
    both = rules.reading(chat(TOOLS), form, SILENT)
    assert both is not None
    assert both.markers == {"<call>", "<think>", "</think>"}
    without = rules.reading(chat(), form, SILENT)
    assert without is not None
    assert without.markers == {"<think>", "</think>"}


# A format of reasoning and calls together.

HARMONY = "{{ tools }}<|start|>assistant<|channel|>analysis<|message|>"
BEGUN = "hello<|start|>assistant"


def harmony_constraint(
    source: Chat, own: OutputConstraint | None = None
) -> EngineConstraint | None:
    return rules.chat_constraint(
        asking(source, own),
        source,
        model(HARMONY),
        BEGUN,
        token_id=lambda text: 5,
        encode=lambda text: [len(text)],
    )


def test_a_grammar_of_calls_that_includes_the_reasoning_has_no_prefix() -> None:
    found = harmony_constraint(chat(replace(TOOLS, mode=ToolMode.REQUIRED)))
    assert found is not None
    assert "analysis" in found.text
    assert found.prefix_end_token_ids == ()


def test_other_constraints_begin_in_the_last_channel() -> None:
    found = harmony_constraint(chat(budget=9), SCHEMA)
    assert found is not None
    assert found.grammar == "json_schema"
    assert found.prefix_end_token_ids == (len("<|channel|>final<|message|>"),)
    assert found.prefix_max_tokens == 9


def test_reasoning_beside_calls_of_one_format_cannot_be_limited() -> None:
    with pytest.raises(FeatureNotSupported) as caught:
        rules.check_chat(chat(TOOLS, budget=9), model(HARMONY))
    assert caught.value.field == "reasoning.budget_tokens"
    rules.check_chat(chat(replace(TOOLS, mode=ToolMode.NONE), budget=9), model(HARMONY))


@pytest.mark.parametrize("tools", [None, TOOLS])
def test_one_parser_reads_reasoning_and_calls(tools: Tools | None) -> None:
    text = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>ok"
    parts = read(chat(tools), model(HARMONY), BEGUN, *text)
    assert "".join(part.text for part in parts if isinstance(part, ReasoningPart)) == "hm"
    assert "".join(part.text for part in parts if isinstance(part, TextPart)) == "ok"
