"""The events of a streamed response: what the SDK's types accept, and what replays equal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from mlxmesh_gateway.openai.responses.events import Ending, Event, ResponseEvents
from mlxmesh_gateway.openai.responses.objects import ResponseFacts, usage_object
from mlxmesh_shared.errors import EngineLost, MeshError, QueueFull, ReaderReplaced

FACTS = ResponseFacts(
    id="resp_1",
    model="pocket",
    instructions="Be brief.",
    metadata={"k": "v"},
    previous_response_id="resp_0",
    temperature=0.7,
    top_p=1.0,
    max_output_tokens=9,
)
IN_BACKGROUND = ResponseFacts(id="resp_2", model="pocket", background=True)
USAGE = usage_object(input_tokens=3, cached_tokens=1, output_tokens=2)
COMPLETED = Ending(status="completed", usage=USAGE)
CUT = Ending(status="incomplete", usage=USAGE, incomplete_reason="max_output_tokens")
CANCELLED = Ending(status="cancelled", usage=USAGE)
TYPED: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

texts = st.lists(st.text(max_size=5), max_size=8)
endings = st.sampled_from([COMPLETED, CUT, CANCELLED, EngineLost("it crashed"), QueueFull("full")])
facts = st.sampled_from([FACTS, IN_BACKGROUND])


def events_of(
    given_facts: ResponseFacts, parts: list[str], ending: Ending | MeshError
) -> list[Event]:
    events = ResponseEvents(given_facts)
    found = events.started(1_700_000_000.0)
    for part in parts:
        found += events.text(part)
    return found + (
        events.finished(ending) if isinstance(ending, Ending) else events.failed(ending)
    )


def typed(event: Event) -> Any:
    """The event as the official SDK reads it; its own types reject what is wrong."""
    parsed = TYPED.validate_json(event.data)
    body = json.loads(event.data)
    assert parsed.type == event.name == body["type"]
    assert parsed.sequence_number == event.sequence
    return parsed


def names(events: list[Event]) -> list[str]:
    return [event.name.removeprefix("response.") for event in events]


def test_the_events_of_a_text() -> None:
    events = events_of(FACTS, ["He", "", "y"], COMPLETED)
    assert names(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    last = typed(events[-1]).response
    assert last.output_text == "Hey"
    assert (last.status, last.usage.total_tokens) == ("completed", 5)
    assert (last.instructions, last.metadata) == ("Be brief.", {"k": "v"})
    assert (last.previous_response_id, last.temperature) == ("resp_0", 0.7)
    assert last.created_at == 1_700_000_000
    assert last.output[0].id == typed(events[2]).item.id == typed(events[4]).item_id


def test_in_the_background_it_is_queued_until_the_prefill_begins() -> None:
    events = ResponseEvents(IN_BACKGROUND)
    first = events.started(1.0)
    assert names(first) == ["created", "queued"]
    assert typed(first[0]).response.status == events.response["status"] == "queued"
    assert names(events.working()) == ["in_progress"]
    assert events.working() == []
    assert names(events.text("a"))[0] == "output_item.added"


def test_without_text_there_is_no_item() -> None:
    events = events_of(FACTS, [""], COMPLETED)
    assert names(events) == ["created", "in_progress", "completed"]
    assert typed(events[-1]).response.output == []


@pytest.mark.parametrize(
    ("ending", "name", "status", "reason"),
    [
        (COMPLETED, "completed", "completed", None),
        (CUT, "incomplete", "incomplete", "max_output_tokens"),
        (CANCELLED, "incomplete", "cancelled", None),
    ],
)
def test_how_it_ends(ending: Ending, name: str, status: str, reason: str | None) -> None:
    last = events_of(FACTS, ["a"], ending)[-1]
    response = typed(last).response
    assert last.name == f"response.{name}"
    assert response.status == status
    assert (response.incomplete_details.reason if reason else None) == reason
    assert response.output[0].status == ("completed" if ending is COMPLETED else "incomplete")


def test_a_failure_has_the_text_so_far_and_a_code_of_openai() -> None:
    response = typed(events_of(FACTS, ["a"], QueueFull("every queue is full"))[-1]).response
    assert response.status == "failed"
    assert (response.error.code, response.error.message) == (
        "rate_limit_exceeded",
        "every queue is full",
    )
    assert response.output_text == "a"
    lost = typed(events_of(FACTS, [], EngineLost("it crashed"))[-1]).response
    assert lost.error.code == "server_error"


def test_a_failure_before_the_start_is_a_whole_stream() -> None:
    events = ResponseEvents(FACTS).failed(EngineLost("it crashed"))
    assert names(events) == ["created", "in_progress", "failed"]
    assert [event.sequence for event in events] == [0, 1, 2]


def test_a_stream_that_breaks_off_says_why() -> None:
    events = ResponseEvents(FACTS)
    events.started(1.0)
    last = events.last_sequence
    event = events.broken(ReaderReplaced("another reader took over"))
    assert event.name == "error"
    assert typed(event).code == "reader_replaced"
    assert event.sequence == typed(event).sequence_number == last == events.last_sequence


@pytest.mark.parametrize(("after", "number"), [(-1, 0), (0, 0), (17, 17)])
def test_who_resumed_a_stream_that_breaks_off_has_what_it_had(after: int, number: int) -> None:
    assert ResponseEvents(FACTS).broken(ReaderReplaced("taken over"), after).sequence == number


def test_what_has_come_so_far() -> None:
    events = ResponseEvents(FACTS)
    events.started(1.0)
    events.text("a")
    events.text("b")
    response = Response.model_validate(events.response)
    assert (response.status, response.output_text) == ("in_progress", "ab")
    assert response.output[0].status == "in_progress"  # pyright: ignore[reportAttributeAccessIssue]


Step = tuple[str, str]


def stepped(
    given_facts: ResponseFacts, steps: list[Step], ending: Ending | MeshError
) -> tuple[ResponseEvents, list[Event]]:
    """A step is text, reasoning, a new call with its first arguments, or more arguments."""
    events = ResponseEvents(given_facts)
    found = events.started(1_700_000_000.0)
    calls = 0
    for kind, part in steps:
        if kind == "text":
            logprobs = [{"token": part, "logprob": -1.0, "bytes": [], "top_logprobs": []}]
            found += events.text(part, logprobs)
        elif kind == "reasoning":
            found += events.reasoning(part)
        elif kind == "call":
            call_id = f"call_{calls}"
            found += events.call(calls, call_id=call_id, name="f", arguments=part)
            calls += 1
        elif calls:
            found += events.call(calls - 1, call_id="", name="", arguments=part)
    last = events.finished(ending) if isinstance(ending, Ending) else events.failed(ending)
    return events, found + last


in_order = st.tuples(
    st.lists(st.tuples(st.just("reasoning"), st.text(max_size=3)), max_size=3),
    st.lists(st.tuples(st.just("text"), st.text(max_size=3)), max_size=3),
    st.lists(st.tuples(st.sampled_from(["call", "arguments", "text"]), st.text(max_size=3))),
).map(lambda parts: [step for part in parts for step in part])


@given(facts, in_order, endings)
def test_the_events_of_every_kind_of_output_add_up_to_the_response(
    given_facts: ResponseFacts, steps: list[Step], ending: Ending | MeshError
) -> None:
    events, found = stepped(given_facts, steps, ending)
    parsed = [typed(event) for event in found]
    assert [event.sequence for event in found] == [*range(len(found))]
    response = parsed[-1].response
    assert json.loads(found[-1].data)["response"] == events.response
    joined: dict[str, str] = {}
    for event in parsed:
        if event.type.endswith(".delta"):
            joined[event.item_id] = joined.get(event.item_id, "") + event.delta
    for kind in ("added", "done"):
        items = [one for one in parsed if one.type == f"response.output_item.{kind}"]
        places = {one.output_index: one.item.id for one in items}
        assert len(items) == len(places)
        assert places == {number: one.id for number, one in enumerate(response.output)}
    for item in response.output:
        whole = item.arguments if item.type == "function_call" else item.content[0].text
        assert whole == joined.get(item.id, "")
    calls = [one for one in response.output if one.type == "function_call"]
    assert [one.call_id for one in calls] == [f"call_{n}" for n in range(len(calls))]


def test_reasoning_ends_before_the_text_and_a_call_before_the_next() -> None:
    steps = [("reasoning", "Hm"), ("text", "a"), ("call", "{"), ("arguments", "}"), ("call", "{}")]
    _, found = stepped(FACTS, steps, COMPLETED)
    assert names(found)[2:] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    statuses = [one.status for one in typed(found[-1]).response.output]
    assert statuses == ["completed"] * 4
    assert [one.id for one in typed(found[-1]).response.output] == [
        "rs_1",
        "msg_1",
        "fc_1",
        "fc_1_1",
    ]


def test_text_after_a_call_belongs_to_the_same_message() -> None:
    _, found = stepped(FACTS, [("text", "a"), ("call", "{}"), ("text", "b")], COMPLETED)
    response = typed(found[-1]).response
    assert response.output_text == "ab"
    assert [one.type for one in response.output] == ["message", "function_call"]
    assert [one.logprob for one in response.output[0].content[0].logprobs] == [-1.0, -1.0]


@given(facts, texts, endings)
def test_every_event_is_one_of_the_sdks_and_numbers_have_no_gaps(
    given_facts: ResponseFacts, parts: list[str], ending: Ending | MeshError
) -> None:
    events = events_of(given_facts, parts, ending)
    assert [event.sequence for event in events] == [*range(len(events))]
    parsed = [typed(event) for event in events]
    deltas = [each.delta for each in parsed if each.type == "response.output_text.delta"]
    assert deltas == [part for part in parts if part]
    assert parsed[-1].response.output_text == "".join(parts)
    assert not any("\n" in event.data or "\r" in event.data for event in events)


@given(facts, texts, endings, st.data())
def test_a_replay_from_any_event_is_the_rest(
    given_facts: ResponseFacts, parts: list[str], ending: Ending | MeshError, data: st.DataObject
) -> None:
    first = events_of(given_facts, parts, ending)
    after = data.draw(st.integers(-1, len(first)))
    again = [one for one in events_of(given_facts, parts, ending) if one.sequence > after]
    assert again == first[after + 1 :]


@given(texts, endings)
def test_the_response_of_the_last_event_is_the_response(
    parts: list[str], ending: Ending | MeshError
) -> None:
    events = ResponseEvents(FACTS)
    events.started(1.0)
    for part in parts:
        events.text(part)
    last = events.finished(ending) if isinstance(ending, Ending) else events.failed(ending)
    assert json.loads(last[-1].data)["response"] == events.response
