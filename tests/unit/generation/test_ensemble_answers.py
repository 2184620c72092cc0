"""What answers of ensembles are compared and judged by."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.convert_events import event_of, generate_response
from mlxmesh_generation.domain.ensemble import Cascade, Step
from mlxmesh_generation.domain.request import (
    CallPiece,
    Chat,
    ChatTurn,
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Started,
    Timings,
    Tool,
    ToolMode,
    Tools,
    TotalUsage,
)
from mlxmesh_generation.ensembles.answer import Answer, Call, answer_of, mean
from mlxmesh_generation.ensembles.confidence import is_valid, shortcoming
from mlxmesh_generation.ensembles.json_values import canonical_json, satisfies
from mlxmesh_generation.ensembles.steps import with_steps
from mlxmesh_generation.ensembles.voting import MAX_MATCHED_CHARACTERS, canonical, elect, last_match
from mlxmesh_shared.reference import ModelReference

END = Finished(FinishReason.STOP, 7, 2, 3, total=TotalUsage(3, 1, 2), timings=Timings(1, 2, 3))


def answer(text: str = "", *calls: Call, reason: FinishReason = FinishReason.STOP) -> Answer:
    end = Finished(reason, 7, 2, 3, total=TotalUsage(3, 1, 2))
    return Answer((end,), end, text, calls)


def test_an_answer_is_put_together() -> None:
    events: list[Event] = [
        Started("r", "m", 1, "e", 7, 2, 0),
        Delta("a", (1,), reasoning="hm"),
        Delta("b", (2,), calls=(CallPiece(0, "id", "f", '{"a"'),)),
        Delta("", (3,), calls=(CallPiece(0, arguments=": 1}"), CallPiece(1, "id2", "g", "{}"))),
        END,
    ]
    whole = answer_of(events)
    assert (whole.text, whole.calls) == ("ab", (Call("f", '{"a": 1}'), Call("g", "{}")))
    assert whole.mean_logprob is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=2), each, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_json_is_compared_by_value(value: Any) -> None:
    plain = json.dumps(value)
    other = json.dumps(_reversed(value), indent=2)
    assert canonical_json(plain) == canonical_json(other)


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(list(value))}
    return [_reversed(each) for each in value] if isinstance(value, list) else value


def _typed(value: Any) -> Any:
    """A form in which Python compares as JSON does."""
    if isinstance(value, bool) or value is None:
        return "constant", str(value)
    if isinstance(value, int | float):
        return "number", value
    if isinstance(value, dict):
        return {key: _typed(each) for key, each in value.items()}
    return [_typed(each) for each in value] if isinstance(value, list) else ("text", value)


@given(JSON, JSON)
def test_other_json_is_another_value(one: Any, other: Any) -> None:
    same = canonical_json(json.dumps(one)) == canonical_json(json.dumps(other))
    assert same == (_typed(one) == _typed(other))


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "[" * 100_000, "[1", "", "{'a': 1}", "[" * 900 + "]" * 899]
)
def test_what_is_no_json_is_text(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        canonical_json(text)
    assert canonical(answer(text)) == ("text", text.lower())


def test_huge_numbers_are_compared_exactly() -> None:
    digits = "9" * 5000
    assert canonical(answer(digits)) == canonical(answer(digits + ".0"))
    assert canonical(answer(digits)) != canonical(answer("8" + digits[1:]))
    assert canonical(answer("1e999")) != canonical(answer("1e998"))


def test_calls_are_compared_by_value_and_order() -> None:
    one = answer("let me see", Call("f", '{"a": 1, "b": 2}'))
    same = answer("", Call("f", '{"b": 2.0, "a": 1}'))
    assert canonical(one) == canonical(same) == canonical(one, "pattern")
    for other in (
        answer("let me see"),
        answer("", Call("g", '{"a": 1, "b": 2}')),
        answer("", Call("f", '{"a": 1}')),
        answer("", *one.calls, *one.calls),
    ):
        assert canonical(one) != canonical(other)


@given(st.text(alphabet="a1 \n", max_size=30))
def test_the_last_match_is_that_of_pythons_re(text: str) -> None:
    import re

    for pattern in (r"\d+", r"a(\d)", r"(a)?1"):
        found = list(re.finditer(pattern, text))
        expected = None
        if found:
            expected = found[-1].group(found[-1].re.groups and 1)
        assert last_match(pattern, text) == expected


def test_a_hostile_pattern_takes_no_longer_than_any() -> None:
    text = "a" * 1_000_000 + "b"
    assert last_match("(a+)+$", text) is None
    assert last_match("(a*)*b", text) is not None
    assert last_match("^x", "x" + "a" * MAX_MATCHED_CHARACTERS) is None  # too far from the end


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1))
def test_the_first_of_the_largest_group_wins(votes: list[str | None]) -> None:
    place, numbers = elect(votes)
    assert numbers[place] == max(numbers)
    assert place == numbers.index(max(numbers))
    assert numbers == [0 if vote is None else votes.count(vote) for vote in votes]


SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'


def with_tools(**changes: Any) -> GenerationRequest:
    tools = Tools((Tool("f", parameters=SCHEMA), Tool("g")), **changes)
    chat = Chat((ChatTurn("user", "x"),), tools=tools)
    return GenerationRequest("r", ModelReference("m"), chat)


GOOD, FREE = Call("f", '{"a": 1}'), Call("g", "{}")


@pytest.mark.parametrize(
    ("calls", "changes", "valid"),
    [
        ((), {}, True),
        ((GOOD, FREE), {}, True),
        ((), {"mode": ToolMode.REQUIRED}, False),
        ((GOOD,), {"mode": ToolMode.REQUIRED}, True),
        ((GOOD,), {"mode": ToolMode.NONE}, False),
        ((GOOD,), {"only": "g"}, False),
        ((GOOD, FREE), {"parallel": False}, False),
        ((Call("f", '{"a": "1"}'),), {}, False),
        ((Call("f", '{"a": 1'),), {}, False),
        ((Call("f", "[]"),), {}, False),
        ((Call("g", "1"),), {}, False),
        ((Call("h", "{}"),), {}, False),
    ],
)
def test_calls_of_tools_are_valid(
    calls: tuple[Call, ...], changes: dict[str, Any], valid: bool
) -> None:
    given_answer = answer("", *calls, reason=FinishReason.TOOL_CALLS)
    assert is_valid(given_answer, with_tools(**changes)) is valid
    recipe = Cascade((), require_valid=False, min_mean_logprob=None, json_schema="")
    assert shortcoming(given_answer, recipe, with_tools(**changes)) == ""


def test_a_schema_that_cannot_be_checked_is_not_satisfied() -> None:
    for schema in ("{", '{"$ref": "http://example.com"}', '{"pattern": "(?=a)"}'):
        assert not satisfies("{}", schema)


def test_a_mean_without_a_number_is_none() -> None:
    assert mean(()) is None
    assert mean((-1.0, float("nan"))) is None
    assert mean((-1.0, -3.0)) == -2.0


def test_the_last_message_has_the_usage_of_all() -> None:
    steps = (
        Step("a", 1, reason="OUTVOTED", prompt_tokens=5, completion_tokens=4, cost=0.5),
        Step("b", 2, chosen=True, score=2.0),
    )
    last = replace(END, cost=0.25, total=TotalUsage(3, 1, 2, device_ms=9.0))
    end = with_steps(last, steps)
    assert end.total == TotalUsage(7, 1, 2, 12, 9.0)
    assert end.cost == 0.75
    assert end.steps[1] == Step("b", 2, True, "", 2.0, 7, 2, 3, 1, 9.0, 0.25)
    started = Started("r", "b", 2, "e", 7, 2, 5, ensemble="crowd", steps=steps)
    for event in (end, started):
        assert event_of(generate_response(1, event)) == event
