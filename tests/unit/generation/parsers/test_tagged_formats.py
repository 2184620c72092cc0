"""What outputs with tags and special tokens consist of, however they are split."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlxmesh_generation.parsers.harmony import HARMONY, HARMONY_REASONING
from mlxmesh_generation.parsers.parts import (
    ArgumentsPart,
    CallPart,
    Part,
    ReasoningPart,
    TextPart,
    joined,
)
from mlxmesh_generation.parsers.registry import REASONING_FORMATS, TOOL_FORMATS
from tests.unit.generation.parsers.outputs import TOOLS, Written
from tests.unit.generation.parsers.tagged_outputs import OUTPUTS

_NAMES = sorted({written.format_name for written in OUTPUTS})


def _parts(format_name: str, pieces: list[str]) -> list[Part]:
    parser = TOOL_FORMATS[format_name].parser(TOOLS)
    parts = [part for piece in pieces for part in parser.feed(piece)]
    return joined(parts + parser.flush())


def _syntax(format_name: str) -> list[str]:
    """The markers of a format, and pieces of its outputs."""
    outputs = [each.output for each in OUTPUTS if each.format_name == format_name]
    pieces = {piece for output in outputs for piece in output.replace("<", "\x00<").split("\x00")}
    return [*sorted(TOOL_FORMATS[format_name].markers | pieces), *'<>{}[]":,\n/ ', "é😀", "null"]


_SYNTAX = {name: _syntax(name) for name in _NAMES}


@pytest.mark.parametrize("written", OUTPUTS, ids=str)
def test_parts(written: Written) -> None:
    assert _parts(written.format_name, [written.output]) == list(written.parts)


@pytest.mark.parametrize("written", OUTPUTS, ids=str)
def test_one_character_at_a_time(written: Written) -> None:
    assert _parts(written.format_name, list(written.output)) == list(written.parts)


@pytest.mark.parametrize("format_name", _NAMES)
@given(data=st.data())
def test_a_split_changes_nothing(format_name: str, data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.sampled_from(_SYNTAX[format_name]), max_size=14))
    whole = _parts(format_name, ["".join(pieces)])
    assert _parts(format_name, pieces) == whole
    assert _parts(format_name, list("".join(pieces))) == whole


@pytest.mark.parametrize("format_name", _NAMES)
@given(data=st.data())
def test_what_was_sent_stays_true(format_name: str, data: st.DataObject) -> None:
    """What was sent before an output ended is the beginning of what is sent in the end."""
    output = "".join(data.draw(st.lists(st.sampled_from(_SYNTAX[format_name]), max_size=14)))
    at = data.draw(st.integers(0, len(output)))
    parser = TOOL_FORMATS[format_name].parser(TOOLS)
    sent = joined(parser.feed(output[:at]))
    whole = joined(sent + parser.feed(output[at:]) + parser.flush())
    for before, after in zip(sent, whole, strict=False):
        assert type(before) is type(after)
        if isinstance(before, CallPart) or isinstance(after, CallPart):
            assert before == after
        else:
            assert after.text.startswith(before.text)


@pytest.mark.parametrize("format_name", _NAMES)
@given(words=st.text(st.characters(exclude_characters="<"), max_size=40))
def test_text_without_markers_is_text(format_name: str, words: str) -> None:
    assume(format_name != "harmony" or not words.startswith(" to="))
    assert _parts(format_name, [words]) == joined([TextPart(words)])


@pytest.mark.parametrize("format_name", ["qwen3_coder", "glm", "minimax", "deepseek_v32"])
@given(value=st.text(st.characters(exclude_characters="<"), max_size=30))
def test_strings_arrive_as_they_are_written(format_name: str, value: str) -> None:
    output = next(
        each.output for each in OUTPUTS if each.format_name == format_name and "Oslo" in each.output
    )
    parts = _parts(format_name, list(output.replace("Oslo", value)))
    arguments = next(part for part in parts if isinstance(part, ArgumentsPart))
    assert json.loads(arguments.text)["city"] == value


def test_strings_are_sent_while_they_come() -> None:
    parser = TOOL_FORMATS["qwen3_coder"].parser(TOOLS)
    head = "<tool_call>\n<function=get_weather>\n<parameter=city>\n"
    assert joined(parser.feed(head))[-1] == ArgumentsPart('{"city": "')
    assert parser.feed('a "b') == [ArgumentsPart('a \\"b')]


def test_values_are_typed_by_the_schema() -> None:
    output = (
        "<tool_call>\n<function=get_weather>\n<parameter=days>\n{}\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    for written, expected in {"7": 7, "three": "three", "[1, 2]": [1, 2], "NaN": "NaN"}.items():
        parts = _parts("qwen3_coder", [output.format(written)])
        assert isinstance(parts[1], ArgumentsPart)
        assert json.loads(parts[1].text) == {"days": expected}


def test_reasoning_in_channels_without_tools() -> None:
    reader = TOOL_FORMATS["hermes"].parser(TOOLS)
    parser = HARMONY_REASONING.parser(reader, is_open=True)
    assert parser.in_reasoning
    analysis = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    parts = parser.feed(f"{analysis}<|channel|>final<|message|>Hi") + parser.flush()
    assert joined(parts) == [ReasoningPart("Hm."), TextPart("Hi")]
    assert not parser.in_reasoning


def test_calls_and_reasoning_of_harmony_share_a_parser() -> None:
    parser = HARMONY.parser(TOOLS)
    assert HARMONY_REASONING.parser(parser, is_open=True) is parser
    assert HARMONY_REASONING.is_open("<|start|>user<|message|>Hi<|end|><|start|>assistant")
    assert not HARMONY_REASONING.is_open("<|start|>assistant<|channel|>final<|message|>")


def test_thoughts_of_gemma() -> None:
    thoughts = REASONING_FORMATS["gemma4"]
    parser = thoughts.parser(TOOL_FORMATS["gemma4"].parser(TOOLS), is_open=False)
    parts = parser.feed("<|channel>thought\nHm.\n<channel|><|tool_call>call:get_time{}<tool_call|>")
    parts += parser.flush()
    assert joined(parts) == [ReasoningPart("Hm."), CallPart("get_time"), ArgumentsPart("{}")]
    assert "<|channel>" in thoughts.markers


def test_deep_nesting_of_gemma_costs_no_stack() -> None:
    parts = _parts("gemma4", ["<|tool_call>call:f{a:" + "[" * 100_000])
    assert isinstance(parts[1], ArgumentsPart)
    assert len(parts[1].text) > 100_000


_MESSAGES = Path(__file__).parents[3] / "data/harmony_messages.json"


def _part(message: Mapping[str, str]) -> list[Part]:
    """What a message that openai-harmony has read is to a caller."""
    if message["recipient"]:
        name = message["recipient"].removeprefix("functions.")
        return [CallPart(name), ArgumentsPart(message["text"])]
    kind = ReasoningPart if message["channel"] == "analysis" else TextPart
    return [kind(message["text"])]


@pytest.mark.parametrize("case", json.loads(_MESSAGES.read_text()))
def test_messages_are_those_of_openai_harmony(case: Mapping[str, Any]) -> None:
    expected = joined(part for message in case["messages"] for part in _part(message))
    assert _parts("harmony", list(case["output"])) == expected
