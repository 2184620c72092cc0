import json
from typing import Any

import pytest

from mlxmesh_engine.constraints.grammars import check_text, refusal
from mlxmesh_engine.constraints.limits import ConstraintLimits
from mlxmesh_engine.constraints.schema_path import find_keyword, nesting
from mlxmesh_engine.scheduling.request import Grammar, GrammarKind
from mlxmesh_shared.errors import ConstraintInvalid, ConstraintTooComplex


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"not": {}}, "/not"),
        ({"properties": {"not": {"items": {"not": {}}}}}, "/properties/not/items/not"),
        ({"properties": {"not": {}}}, ""),
        ({"const": {"not": 1}, "enum": [{"not": 1}]}, ""),
        ({"anyOf": [{}, {"$defs": {"a/b~": {"not": 1}}}]}, "/anyOf/1/$defs/a~1b~0/not"),
        (True, ""),
    ],
)
def test_a_keyword_is_found_where_it_is_one(schema: Any, path: str) -> None:
    assert find_keyword(schema, "not") == path


def test_a_keyword_is_found_by_its_value() -> None:
    schema = {"items": {"type": ["string", "text"]}, "type": "array"}
    assert find_keyword(schema, "type", "text") == "/items/type"
    assert find_keyword(schema, "type", "array") == "/type"


@pytest.mark.parametrize(("value", "depth"), [(1, 0), ({}, 1), ([1], 1), ({"a": [{}], "b": 1}, 3)])
def test_nesting(value: Any, depth: int) -> None:
    assert nesting(value) == depth


def json_schema(text: str) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, text)


def test_a_text_above_a_limit_is_refused_by_name() -> None:
    limits = ConstraintLimits(max_characters=100, max_depth=3)
    check_text(json_schema('{"items": {"items": {}}}'), limits)
    with pytest.raises(ConstraintTooComplex, match="101 characters; at most 100") as caught:
        check_text(Grammar(GrammarKind.REGEX, "a" * 101), limits)
    assert caught.value.field == "constraint.regex"
    with pytest.raises(ConstraintTooComplex, match="4 levels deep; at most 3") as caught:
        check_text(json_schema('{"items": {"items": {"items": {}}}}'), limits)
    assert caught.value.field == "constraint.json_schema"


def test_a_schema_too_deep_for_python_is_refused() -> None:
    deep = '{"items":' * 20_000 + "{}" + "}" * 20_000
    with pytest.raises(ConstraintTooComplex, match="deep"):
        check_text(json_schema(deep), ConstraintLimits())


def test_a_schema_that_is_not_json_is_refused() -> None:
    with pytest.raises(ConstraintInvalid, match="not JSON"):
        check_text(json_schema("{"), ConstraintLimits())


def test_a_refusal_has_llguidances_words_and_the_path() -> None:
    schema = json.dumps({"properties": {"a": {"uniqueItems": True}}})
    error = refusal(json_schema(schema), 'Unimplemented keys: ["uniqueItems"]\n<state>secret')
    assert isinstance(error, ConstraintInvalid)
    assert error.message == (
        'the JSON schema cannot be used: Unimplemented keys: ["uniqueItems"] '
        "(at /properties/a/uniqueItems)"
    )


def test_a_refusal_for_size_says_so() -> None:
    error = refusal(json_schema("{}"), "schema too large")
    assert isinstance(error, ConstraintTooComplex)
