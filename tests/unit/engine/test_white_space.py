"""White space between JSON's tokens is bounded, also of schemas in Lark grammars."""

import json
import re
from typing import Any

import pytest

from mlxmesh_engine.constraints.white_space import WHITE_SPACE, bound_white_space

OPTION = {"x-guidance": {"whitespace_pattern": WHITE_SPACE}}


def schemas(lark: str) -> list[Any]:
    return [json.loads(text) for text in re.findall(r"%json (\{.*\})", lark)]


@pytest.mark.parametrize("indent", [None, 1, 2, 4, "\t"])
def test_usual_json_is_allowed(indent: int | str | None) -> None:
    text = json.dumps({"a": [1, {"b": [2]}], "c": {}}, indent=indent)
    for space in re.findall(r"\s+", text):
        assert re.fullmatch(WHITE_SPACE, space)


@pytest.mark.parametrize("space", ["\n\n", " " * 3, "\n" + " " * 21, "\t", " \n \n"])
def test_more_is_not_allowed(space: str) -> None:
    assert not re.fullmatch(WHITE_SPACE, space)


def test_each_schema_of_a_grammar_gets_the_option() -> None:
    lark = 'start: a b\na: %json {}\nb: "x" %json {"const": "%json {}"}\n'
    assert schemas(bound_white_space(lark)) == [OPTION, {**OPTION, "const": "%json {}"}]


@pytest.mark.parametrize(
    "lark",
    [
        'start: "%json {}" /%json {}/ // %json {}',
        'start: "\\"%json {}"',
        "start: /a\\/%json {}/",
        'start: %json {"x-guidance": {"whitespace_flexible": false}}',
        "start: %json {",
        "start: %json [1]",
        "start: %json",
        "start: %json " + '{"a":' * 100_000,
        "",
    ],
)
def test_everything_else_is_unchanged(lark: str) -> None:
    assert bound_white_space(lark) == lark
