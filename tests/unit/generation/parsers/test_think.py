"""Reasoning between markers, however an output is split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.parsers.parts import (
    ArgumentsPart,
    CallPart,
    OutputParser,
    Part,
    ReasoningPart,
    TextPart,
    joined,
)
from mlxmesh_generation.parsers.registry import REASONING_FORMATS, TOOL_FORMATS
from mlxmesh_generation.parsers.think import Think
from tests.unit.generation.parsers.outputs import TOOLS

_FORMATS = {name: form for name, form in REASONING_FORMATS.items() if isinstance(form, Think)}
_THINK = _FORMATS["think"]
_pieces = st.lists(
    st.sampled_from(
        [
            *("<think>", "</think>", "\n", " ", "a", "é😀", "<", "think", "<tool_call>"),
            *('{"name": "get_time"}', "</tool_call>", "\n<function=", "</thi", ">"),
        ]
    ),
    max_size=14,
)


def _parser(form: Think = _THINK, *, is_open: bool = False) -> OutputParser:
    return form.parser(TOOL_FORMATS["hermes"].parser(TOOLS), is_open=is_open)


def _parts(pieces: list[str], form: Think = _THINK, *, is_open: bool = False) -> list[Part]:
    parser = _parser(form, is_open=is_open)
    return joined([part for piece in pieces for part in parser.feed(piece)] + parser.flush())


_A, _B = ReasoningPart("a\n b"), TextPart("b")


@pytest.mark.parametrize(
    ("output", "is_open", "parts"),
    [
        ("<think>\na\n b\n</think>\n\nb", False, [_A, _B]),
        ("a\n b</think>b", True, [_A, _B]),
        # White space and empty reasoning.
        (" \n<think>a\n b</think>b\n", False, [_A, TextPart("b\n")]),
        ("<think>\n\n</think>\n\nb", False, [_B]),
        ("\n\n b", False, [TextPart("\n\n b")]),
        # The model repeats a marker, or writes one that is not needed.
        ("<think>\na\n b</think>b", True, [_A, _B]),
        ("</think>\n\nb", False, [_B]),
        ("<think>a\n b</think>\n<think>c</think>b", False, [_A, ReasoningPart("c"), _B]),
        # Cut in the middle.
        ("<think>\na\n b", False, [_A]),
        ("a\n b", True, [_A]),
        ("<think>a </thi", False, [ReasoningPart("a </thi")]),
        ("<thi", False, [TextPart("<thi")]),
        ("<think>", False, []),
        ("a \n", True, [ReasoningPart("a \n")]),
        # Markers in the answer, and other markers in reasoning.
        ("b <think>c</think>", False, [TextPart("b <think>c</think>")]),
        ("a<tool_call>{}</think>b", True, [ReasoningPart("a<tool_call>{}"), _B]),
        (
            'a</think>\n<tool_call>{"name": "get_time"}</tool_call>',
            True,
            [ReasoningPart("a"), CallPart("get_time"), ArgumentsPart("{}")],
        ),
        # A call that begins inside reasoning ends it; it is no call of this format.
        (
            "a\n<tool_call>\n<function=f>",
            True,
            [ReasoningPart("a"), TextPart("<tool_call>\n<function=f>")],
        ),
    ],
)
def test_parts(output: str, is_open: bool, parts: list[Part]) -> None:
    joined_parts = joined(parts)
    assert _parts([output], is_open=is_open) == joined_parts
    assert _parts(list(output), is_open=is_open) == joined_parts


@pytest.mark.parametrize("form", _FORMATS.values(), ids=_FORMATS)
def test_every_format(form: Think) -> None:
    output = f"{form.start}\na\n b\n{form.end}\nb"
    assert _parts([output], form) == [_A, _B]
    assert form.is_open(f"Hello {form.start}\n")
    assert not form.is_open(f"Hello {form.start}\n\n{form.end}\n\n")
    assert form.end in form.markers or form.name == "gemma4"


def test_reasoning_without_a_marker_before_it() -> None:
    form = _FORMATS["think_implicit"]
    assert form.is_open("<|assistant|>\n")
    assert not _THINK.is_open("<|assistant|>\n")


@pytest.mark.parametrize("is_open", [False, True])
@given(pieces=_pieces)
def test_a_split_changes_nothing(is_open: bool, pieces: list[str]) -> None:
    whole = _parts(["".join(pieces)], is_open=is_open)
    assert _parts(pieces, is_open=is_open) == whole
    assert _parts(list("".join(pieces)), is_open=is_open) == whole


@given(text=st.text(), answer=st.text(st.characters(exclude_characters="<"), min_size=1))
def test_no_text_is_lost(text: str, answer: str) -> None:
    """All but the markers and white space next to them is in the parts, in order."""
    text = text.replace("<", "")
    parts = _parts([f"<think>{text}</think>{answer}"])
    space = " \t\r\n"
    expected = joined([ReasoningPart(text.strip(space)), TextPart(answer.lstrip(space))])
    assert parts == expected


def test_tokens_of_reasoning_are_told_apart() -> None:
    parser = _parser()
    seen: list[bool] = []
    for piece in ("<think>", "a", "</thi", "nk>", "b"):
        seen.append(parser.in_reasoning)
        parser.feed(piece)
    assert seen == [False, True, True, True, False]
    assert _parser(is_open=True).in_reasoning


def test_reasoning_arrives_while_it_is_written() -> None:
    parser = _parser(is_open=True)
    assert parser.feed("a b") == [ReasoningPart("a b")]
    assert parser.feed(" \n") == []
    assert parser.feed("c") == [ReasoningPart(" \nc")]
