"""What outputs of models consist of, however they are split."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.parsers.parts import (
    ArgumentsPart,
    CallPart,
    OutputParser,
    Part,
    TextPart,
    joined,
)
from mlxmesh_generation.parsers.registry import TOOL_FORMATS
from tests.unit.generation.parsers.outputs import OUTPUTS, TOOLS, Written

_NAMES = ("hermes", "llama3_json", "llama_pythonic", "mistral", "granite", "command", "json")
_SYNTAX = [
    *(marker for name in _NAMES for marker in sorted(TOOL_FORMATS[name].markers)),
    *('{"name": "get_weather", "arguments": {"city": "Oslo"}}', '{"name": "get_time"', "get_time("),
    *"[]{}(),:;\"'\\=*`<| \n",
    *('"name": ', '"arguments": ', '"parameters": ', '"get_time"', '"x"', "city=", "\\u00e5"),
    *("Hi", "é😀", "nothing", "1", "null", "```json"),
]
_pieces = st.lists(st.sampled_from(_SYNTAX), max_size=14)


def _parser(format_name: str) -> OutputParser:
    return TOOL_FORMATS[format_name].parser(TOOLS)


def _parts(format_name: str, pieces: list[str]) -> list[Part]:
    parser = _parser(format_name)
    parts = [part for piece in pieces for part in parser.feed(piece)]
    return joined(parts + parser.flush())


@pytest.mark.parametrize("written", OUTPUTS, ids=str)
def test_parts(written: Written) -> None:
    assert _parts(written.format_name, [written.output]) == list(written.parts)


@pytest.mark.parametrize("written", OUTPUTS, ids=str)
def test_one_character_at_a_time(written: Written) -> None:
    assert _parts(written.format_name, list(written.output)) == list(written.parts)


@pytest.mark.parametrize("format_name", _NAMES)
@given(pieces=_pieces)
def test_a_split_changes_nothing(format_name: str, pieces: list[str]) -> None:
    whole = _parts(format_name, ["".join(pieces)])
    assert _parts(format_name, pieces) == whole
    assert _parts(format_name, list("".join(pieces))) == whole


@pytest.mark.parametrize("format_name", _NAMES)
@given(pieces=_pieces, at=st.integers(0, 60))
def test_what_was_sent_stays_true(format_name: str, pieces: list[str], at: int) -> None:
    """What was sent before an output ended is the beginning of what is sent in the end."""
    output = "".join(pieces)
    parser = _parser(format_name)
    sent = joined(parser.feed(output[:at]))
    whole = joined(sent + parser.feed(output[at:]) + parser.flush())
    for before, after in zip(sent, whole, strict=False):
        assert type(before) is type(after)
        if isinstance(before, CallPart):
            assert before == after
        else:
            assert not isinstance(after, CallPart)
            assert after.text.startswith(before.text)


@pytest.mark.parametrize("format_name", _NAMES)
@given(words=st.text(st.characters(exclude_characters="<[{`|"), max_size=40))
def test_text_without_markers_is_text(format_name: str, words: str) -> None:
    assert _parts(format_name, [words]) == joined([TextPart(words)])


@pytest.mark.parametrize("format_name", _NAMES)
@given(pieces=_pieces)
def test_the_text_is_in_the_output(format_name: str, pieces: list[str]) -> None:
    """Text keeps its order, and only calls, markers and white space are missing from it."""
    output = "".join(pieces)
    at = 0
    parts = _parts(format_name, [output])
    for part in parts:
        if isinstance(part, TextPart):
            for word in part.text.split():
                at = output.index(word, at) + len(word)
    if not any(isinstance(part, CallPart) for part in parts):
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        # An output that ends inside the beginning of a call ends before it.
        rest = output.removeprefix(text).lstrip()
        assert output.startswith(text)
        assert not rest or any(map(rest.startswith, TOOL_FORMATS[format_name].markers))


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    arguments=st.dictionaries(st.text(), _json, max_size=4),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 2]),
    name_first=st.booleans(),
    size=st.integers(1, 9),
)
def test_any_arguments(
    arguments: dict[str, object], ascii_only: bool, indent: int | None, name_first: bool, size: int
) -> None:
    pairs = [("name", "f"), ("arguments", arguments)]
    written = json.dumps(
        dict(pairs if name_first else pairs[::-1]), ensure_ascii=ascii_only, indent=indent
    )
    output = f"<tool_call>\n{written}\n</tool_call>"
    pieces = [output[at : at + size] for at in range(0, len(output), size)]
    name, value = _parts("hermes", pieces)
    assert name == CallPart("f")
    assert isinstance(value, ArgumentsPart)
    assert json.loads(value.text) == arguments


@given(arguments=st.dictionaries(st.text(), _json, max_size=4), size=st.integers(1, 9))
def test_arguments_as_a_string(arguments: dict[str, object], size: int) -> None:
    written = json.dumps({"name": "f", "arguments": json.dumps(arguments)})
    output = f"<tool_call>{written}</tool_call>"
    _, value = _parts("hermes", [output[at : at + size] for at in range(0, len(output), size)])
    assert isinstance(value, ArgumentsPart)
    assert json.loads(value.text) == arguments


@given(value=_json, size=st.integers(1, 9))
def test_any_python_literal(value: object, size: int) -> None:
    output = f"[get_weather(city={value!r})]"
    _, arguments = _parts(
        "llama_pythonic", [output[at : at + size] for at in range(0, len(output), size)]
    )
    assert isinstance(arguments, ArgumentsPart)
    assert json.loads(arguments.text) == {"city": value}


def test_arguments_arrive_while_they_are_written() -> None:
    parser = _parser("hermes")
    assert parser.feed('<tool_call>\n{"name": "get_weather", ') == []
    assert parser.feed('"arguments": {"ci') == [CallPart("get_weather"), ArgumentsPart('{"ci')]
    assert parser.feed('ty": "O') == [ArgumentsPart('ty": "O')]
