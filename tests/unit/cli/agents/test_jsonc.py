"""Edits of JSON with comments change one place and leave the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_cli.agents.formats import UnusableFile
from mlxmesh_cli.agents.jsonc import Jsonc
from mlxmesh_cli.agents.jsonc_syntax import parse

FORM = Jsonc()

COMMENTED = """{
    // The theme.
    "theme": "dark", // not light
    /* models */
    "env": {
        "A": "1" // the last one
    },
}
"""


def test_a_new_member_follows_the_last_one_and_its_comment() -> None:
    text = FORM.with_value(COMMENTED, ("env", "B"), "2")
    assert '"A": "1", // the last one\n        "B": "2"\n    },' in text
    assert FORM.read(text) == {"theme": "dark", "env": {"A": "1", "B": "2"}}


def test_a_trailing_comma_stays_a_trailing_comma() -> None:
    text = FORM.with_value(COMMENTED, ("model",), "x")
    assert text.endswith('    },\n    "model": "x",\n}\n')


def test_a_file_without_trailing_commas_gets_none() -> None:
    text = FORM.with_value('{\n  "a": 1\n}\n', ("b", "c"), True)
    assert json.loads(text) == {"a": 1, "b": {"c": True}}


def test_only_the_value_is_replaced() -> None:
    text = FORM.with_value(COMMENTED, ("theme",), "light")
    assert text == COMMENTED.replace('"dark"', '"light"')


@pytest.mark.parametrize("empty", ["", "\n", "{}", "{ }", "{\n}\n"])
def test_from_nothing(empty: str) -> None:
    text = FORM.with_value(empty, ("a", "b"), [1])
    assert json.loads(text) == {"a": {"b": [1]}}


def test_comments_in_an_empty_object_stay() -> None:
    text = FORM.with_value("{\n  // nothing yet\n}\n", ("a",), 1)
    assert text == '{\n  // nothing yet\n  "a": 1\n}\n'


def test_objects_on_one_line_stay_on_one_line() -> None:
    assert FORM.with_value('{"a": 1}', ("b",), {"c": 2}) == '{"a": 1, "b": {"c": 2}}'
    assert FORM.without('{"a": 1, "b": 2, "c": 3}', ("b",)) == '{"a": 1, "c": 3}'
    assert FORM.without('{"a": 1, "b": 2}', ("b",)) == '{"a": 1}'
    assert FORM.without('{"a": 1}', ("a",)) == "{}"


def test_line_endings_and_tabs_stay() -> None:
    text = FORM.with_value('{\r\n\t"a": 1\r\n}\r\n', ("b",), {"c": 1})
    assert text == '{\r\n\t"a": 1,\r\n\t"b": {\r\n\t\t"c": 1\r\n\t}\r\n}\r\n'


def test_what_was_added_can_be_taken_out_again() -> None:
    for path in (("env", "B"), ("model",)):
        added = FORM.with_value(COMMENTED, path, {"x": [1, 2]})
        assert FORM.without(added, path) == COMMENTED


def test_of_two_members_with_one_name_the_last_counts() -> None:
    assert FORM.read('{"a": 1, "a": 2}') == {"a": 2}
    assert FORM.with_value('{"a": 1, "a": 2}', ("a",), 3) == '{"a": 1, "a": 3}'


@pytest.mark.parametrize(
    "broken",
    ["{", '{"a"}', '{"a": }', '{"a": 1 "b": 2}', "{,}", '{"a": 01x}', "[1 2]", "{} {}",
     '{"a": "\n"}',     "/* open", '{"a": 1,, }', "[" * 200, '{"a": 1e}'],
)  # fmt: skip
def test_what_is_not_json_names_its_line(broken: str) -> None:
    with pytest.raises(UnusableFile, match=r"line \d+ is not JSON|not contain an object"):
        FORM.read(broken)


@pytest.mark.parametrize("other", ["[]", "1", '"text"', "null"])
def test_it_must_be_an_object(other: str) -> None:
    with pytest.raises(UnusableFile, match="object"):
        FORM.read(other)


def test_a_value_in_the_way_is_not_overwritten() -> None:
    with pytest.raises(UnusableFile, match="env is not an object"):
        FORM.with_value('{"env": "x"}', ("env", "A"), 1)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)


@st.composite
def spellings(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    """An object and one of the ways to write it, with comments and trailing commas."""
    value = draw(OBJECTS)

    def gap() -> str:
        return draw(
            st.sampled_from(["", " ", "\n", "\n    ", " // c\n", "/* \n c */", "\n  // {\n"])
        )

    def written(one: Any) -> str:
        if isinstance(one, dict):
            items = [
                f"{gap()}{json.dumps(key)}{gap()}:{gap()}{written(each)}{gap()}"
                for key, each in one.items()
            ]
            tail = draw(st.sampled_from(["", ","])) if items else ""
            return "{" + ",".join(items) + tail + gap() + "}"
        if isinstance(one, list):
            items = [f"{gap()}{written(each)}{gap()}" for each in one]
            return "[" + ",".join(items) + gap() + "]"
        return json.dumps(one)

    return value, f"{gap()}{written(value)}{gap()}"


@given(spellings())
def test_every_spelling_is_read(case: tuple[dict[str, Any], str]) -> None:
    value, text = case
    assert parse(text).value == value


@given(spellings(), st.text(max_size=4), VALUES)
def test_setting_changes_one_member(case: tuple[dict[str, Any], str], key: str, new: Any) -> None:
    value, text = case
    assert FORM.read(FORM.with_value(text, (key,), new)) == {**value, key: new}


@given(spellings(), st.text(max_size=4), st.text(max_size=4), VALUES)
def test_removing_undoes_setting(
    case: tuple[dict[str, Any], str], outer: str, inner: str, new: Any
) -> None:
    value, text = case
    if outer in value:
        return
    added = FORM.with_value(text, (outer, inner), new)
    assert FORM.read(FORM.without(added, (outer,))) == value


@given(spellings())
def test_every_member_can_be_removed(case: tuple[dict[str, Any], str]) -> None:
    value, text = case
    for key in value:
        rest = {name: each for name, each in value.items() if name != key}
        assert FORM.read(FORM.without(text, (key,))) == rest
