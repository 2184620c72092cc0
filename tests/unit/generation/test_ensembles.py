"""Each recipe with scripted members."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxmesh_generation.domain.ensemble import BestOf, Cascade, Fallback, Recipe, Vote
from mlxmesh_generation.domain.request import (
    Chat,
    ChatTurn,
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    LogprobOptions,
    OutputConstraint,
    PromptText,
    PromptTokens,
    SamplingOptions,
    Started,
    Tool,
    Tools,
)
from mlxmesh_generation.ensembles.asking import Asking
from mlxmesh_generation.ensembles.failures import check_supported, leaves_to_others
from mlxmesh_generation.ensembles.run import EnsembleRun
from mlxmesh_generation.streams.stream import EventBuffer
from mlxmesh_shared.errors import (
    Cancelled,
    ContextTooLong,
    DeadlineExceeded,
    EngineLost,
    FeatureNotSupported,
    Internal,
    InvalidArgument,
    MeshError,
    ModelNotFound,
    ModelNotLoaded,
    QueueFull,
    ReaderReplaced,
    TooManyRequests,
    error_classes,
)
from mlxmesh_shared.reference import ModelReference
from tests.fakes.scripted_members import Script, ScriptedMembers


def models(*names: str) -> tuple[ModelReference, ...]:
    return tuple(map(ModelReference.parse, names))


def asked(**changes: Any) -> GenerationRequest:
    fields: dict[str, Any] = {
        "request_id": "mine",
        "model": ModelReference("crowd"),
        "input": PromptText("x"),
        "sampling": SamplingOptions(seed=5),
        "digest": b"x",
        "detached": True,
        "kept": b"kept",
        "message_bytes": 1000,
        "caller": "ada",
        "owner": "ada",
    }
    return GenerationRequest(**(fields | changes))


@dataclass
class Run:
    """A run, and what it emitted."""

    run: EnsembleRun[EventBuffer]
    members: ScriptedMembers
    ends: list[str]

    async def events(self) -> list[Event]:
        events: list[Event] = []
        while not (events and isinstance(events[-1], Finished) and events[-1].total):
            event = self.run.events.pop()
            if event is None:
                await self.run.events.wait()
            else:
                events.append(event)
        while not self.ends:
            await asyncio.sleep(0)
        return events


def begin(
    recipe: Recipe,
    members: ScriptedMembers,
    request: GenerationRequest | None = None,
    deadline_s: float | None = None,
) -> Run:
    ends: list[str] = []
    asking = Asking(request or asked(), members, deadline_s)
    run = EnsembleRun(recipe, asking, EventBuffer(), on_ended=lambda: ends.append("ended"))
    run.start()
    return Run(run, members, ends)


async def outcome(recipe: Recipe, members: ScriptedMembers, **changes: Any) -> "Outcome":
    running = begin(recipe, members, asked(**changes))
    events = await running.events()
    assert running.ends == ["ended"]
    return Outcome(events)


async def failure(recipe: Recipe, members: ScriptedMembers, **changes: Any) -> MeshError:
    running = begin(recipe, members, asked(**changes))
    with pytest.raises(MeshError) as raised:
        await running.events()
    assert not isinstance(raised.value, Internal)
    assert all(member.closed for member in members.prepared)
    return raised.value


class Outcome:
    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        started, finished = events[0], events[-1]
        assert isinstance(started, Started)
        assert isinstance(finished, Finished)
        assert [isinstance(each, Started) for each in events].count(True) == 1
        self.started, self.finished = started, finished
        self.text = "".join(each.text for each in events if isinstance(each, Delta))
        assert (started.request_id, started.ensemble) == ("mine", "crowd")
        [chosen] = [step for step in finished.steps if step.chosen]
        assert (chosen.model, chosen.version) == (started.model, started.model_version)
        assert chosen.reason == ""
        before = [(step.model, step.chosen, step.reason, step.score) for step in started.steps]
        assert self.path == before
        assert finished.cost == sum(step.cost for step in finished.steps)
        total = finished.total
        assert total is not None
        assert total.completion_tokens == sum(step.completion_tokens for step in finished.steps)
        assert total.prompt_tokens == sum(step.prompt_tokens for step in finished.steps)

    @property
    def path(self) -> list[tuple[str, bool, str, float | None]]:
        return [(s.model, s.chosen, s.reason, s.score) for s in self.finished.steps]


# Fallback.

FALLBACK = Fallback(models("big", "small"))


async def test_the_preferred_model_answers() -> None:
    members = ScriptedMembers(big=Script("a b"), small=Script("c"))
    result = await outcome(FALLBACK, members)
    assert (result.text, result.path) == ("a b", [("big", True, "", None)])
    assert len(members.prepared) == 1
    assert members.prepared[0].committed


@pytest.mark.parametrize(
    "script",
    [
        Script(refuses=ModelNotLoaded("x")),
        Script(refuses=QueueFull("x")),
        Script(refuses=TooManyRequests("x")),
        Script(refuses=ModelNotFound("x")),
        Script(refuses=ContextTooLong("x")),
        Script(fails_at_start=QueueFull("x")),
        Script(fails_after=0, error=EngineLost("x")),
        Script(fails_after=0, error=Internal("x")),
    ],
)
async def test_the_next_model_answers_when_one_cannot(script: Script) -> None:
    error = script.refuses or script.fails_at_start or script.error
    result = await outcome(FALLBACK, ScriptedMembers(big=script, small=Script("c")))
    path = [("big", False, error.reason, None), ("small", True, "", None)]
    assert (result.text, result.path) == ("c", path)


@pytest.mark.parametrize("hangs_before", [0, 1])
async def test_a_model_that_is_too_slow_is_given_up(hangs_before: int) -> None:
    members = ScriptedMembers(big=Script(hangs_before=hangs_before), small=Script("c"))
    result = await outcome(Fallback(models("big", "small"), 0.01), members)
    path = [("big", False, "FIRST_TOKEN_TIMEOUT", None), ("small", True, "", None)]
    assert (result.text, result.path) == ("c", path)
    assert members.prepared[0].closed
    assert result.finished.steps[0].prompt_tokens == (7 if hangs_before else 0)


async def test_a_preparation_that_is_too_slow_is_given_up() -> None:
    members = ScriptedMembers(big=Script(prepares=asyncio.Event()), small=Script("c"))
    result = await outcome(Fallback(models("big", "small"), 0.01), members)
    assert [step.reason for step in result.finished.steps] == ["FIRST_TOKEN_TIMEOUT", ""]
    assert [step.version for step in result.finished.steps] == [0, 1]


async def test_a_model_that_began_to_answer_is_not_replaced() -> None:
    members = ScriptedMembers(
        big=Script("a b", fails_after=1, error=EngineLost("x")), small=Script("c")
    )
    assert isinstance(await failure(FALLBACK, members), EngineLost)
    assert len(members.prepared) == 1


async def test_an_error_of_the_request_is_told_at_once() -> None:
    members = ScriptedMembers(
        big=Script(refuses=InvalidArgument("no", field="max_tokens")), small=Script()
    )
    error = await failure(FALLBACK, members)
    assert (error.field, members.prepared) == ("max_tokens", [])


async def test_if_all_fail_the_error_says_why_and_whether_to_retry() -> None:
    members = ScriptedMembers(
        big=Script(refuses=QueueFull("full", retry_delay_s=2.0)),
        small=Script(refuses=ModelNotLoaded("not there", field="model")),
    )
    error = await failure(FALLBACK, members)
    assert (type(error), error.retry_delay_s) == (QueueFull, 2.0)
    assert "big: full" in error.message
    assert "small: not there" in error.message


# Members.


async def test_members_ask_for_the_caller_with_ids_of_their_own() -> None:
    members = ScriptedMembers(big=Script())
    await outcome(Vote(models("big"), samples=3), members, request_id="mine")
    requests = [member.request for member in members.prepared]
    assert [each.request_id for each in requests] == ["mine.1", "mine.2", "mine.3"]
    assert {(each.answer_id, each.caller, each.owner) for each in requests} == {
        ("mine", "ada", "ada")
    }
    assert all(
        (each.digest, each.detached, each.kept, each.message_bytes) == (None, False, b"", 0)
        for each in requests
    )
    seeds = [each.sampling.seed for each in requests]
    assert seeds[0] == 5
    assert len(set(seeds)) == 3


async def test_a_long_id_stays_legal() -> None:
    members = ScriptedMembers(big=Script())
    running = begin(Vote(models("big"), samples=11), members, asked(request_id="x" * 128))
    await running.events()
    ids = [member.request.request_id for member in members.prepared]
    assert all(len(each) == 128 for each in ids)
    assert len(set(ids)) == 11


# Cascade.

CASCADE = Cascade(models("small", "big"), min_mean_logprob=-1.0)


async def test_a_confident_answer_is_given() -> None:
    members = ScriptedMembers(small=Script("a b", logprob=-0.5), big=Script("c"))
    result = await outcome(CASCADE, members)
    assert (result.text, result.path) == ("a b", [("small", True, "", -0.5)])
    assert all(not each.logprobs for each in result.events if isinstance(each, Delta))


async def test_log_probabilities_are_passed_on_to_who_asks() -> None:
    members = ScriptedMembers(small=Script("a b"), big=Script("c"))
    result = await outcome(CASCADE, members, logprobs=LogprobOptions(top=2))
    assert members.prepared[0].request.logprobs == LogprobOptions(top=2)
    assert all(each.logprobs for each in result.events if isinstance(each, Delta))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script("a b", logprob=-1.5), "LOW_CONFIDENCE"),
        (Script("a b", logprob=float("nan")), "LOW_CONFIDENCE"),
        (Script("a b", reason=FinishReason.LENGTH), "INVALID"),
        (Script(refuses=ModelNotLoaded("x")), "MODEL_NOT_LOADED"),
        (Script(fails_after=1, error=EngineLost("x")), "ENGINE_LOST"),
    ],
)
async def test_what_is_not_confident_is_left_to_the_next_model(script: Script, reason: str) -> None:
    members = ScriptedMembers(small=script, big=Script("c", logprob=-9))
    result = await outcome(CASCADE, members)
    assert (result.text, [step.reason for step in result.finished.steps]) == ("c", [reason, ""])
    assert members.prepared[-1].request.logprobs is None  # nobody judges the last one
    spent = result.finished.steps[0]
    assert spent.device_ms == (5 if reason in ("LOW_CONFIDENCE", "INVALID") else 0)


async def test_the_last_model_is_streamed() -> None:
    members = ScriptedMembers(small=Script(logprob=-2), big=Script("c d", hangs_before=2))
    running = begin(CASCADE, members)
    while len(running.run.events.waiting) < 2:
        await asyncio.sleep(0)
    started, delta = running.run.events.waiting
    assert isinstance(started, Started)
    assert isinstance(delta, Delta)
    assert (started.model, delta.text) == ("big", "c")
    running.run.fail(Cancelled("bye"))


async def test_nothing_is_emitted_before_an_answer_was_judged() -> None:
    members = ScriptedMembers(small=Script("a b", hangs_before=2), big=Script("c"))
    running = begin(CASCADE, members)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (len(members.prepared), running.run.events.waiting) == (1, ())
    running.run.fail(Cancelled("bye"))
    assert members.prepared[0].closed


@pytest.mark.parametrize(
    ("text", "is_given"),
    [
        ('{"a": 1}', True),
        ('{"a": "1"}', False),
        ("{}", False),
        ('{"a": 1', False),
        ('{"a": NaN}', False),
        ("[" * 100_000, False),
        ('{"a": 1e999}', False),
        ('{"a": ' + "9" * 5000 + "}", False),
    ],
)
async def test_a_schema_judges_the_answer(text: str, is_given: bool) -> None:
    schema = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
    recipe = Cascade(models("small", "big"), json_schema=schema)
    result = await outcome(recipe, ScriptedMembers(small=Script(text), big=Script("c")))
    reasons = [step.reason for step in result.finished.steps]
    assert reasons == ([""] if is_given else ["SCHEMA_FAILED", ""])


async def test_a_hostile_pattern_of_a_schema_takes_linear_time() -> None:
    recipe = Cascade(models("small", "big"), json_schema='{"pattern": "^(a+)+$"}')
    text = '"' + "a" * 50_000 + 'b"'  # would take Python's re longer than the universe has
    result = await outcome(recipe, ScriptedMembers(small=Script(text), big=Script("c")))
    assert result.text == "c"


async def test_a_constraint_cut_short_by_a_stop_text_is_invalid() -> None:
    constraint = OutputConstraint("regex", "a+")
    members = ScriptedMembers(small=Script(stop_text="x"), big=Script("c"))
    assert (await outcome(CASCADE, members, constraint=constraint)).text == "c"
    members = ScriptedMembers(small=Script("a", stop_text="x"), big=Script("c"))
    assert (await outcome(CASCADE, members)).text == "a"


async def test_if_the_last_model_fails_its_error_is_told() -> None:
    members = ScriptedMembers(
        small=Script(logprob=-2), big=Script(refuses=QueueFull("full", retry_delay_s=1.0))
    )
    error = await failure(CASCADE, members)
    assert (type(error), error.retry_delay_s) == (QueueFull, 1.0)


# Vote.


@pytest.mark.parametrize(
    ("texts", "pattern", "expected", "scores"),
    [
        (["a", "b", "B"], "", "b", [1, 2, 2]),
        (["a", "b", "c"], "", "a", [1, 1, 1]),
        (["x  y", " X Y ", "z"], "", "x  y", [2, 2, 1]),
        (['{"a": 1, "b": [2]}', "no", '{"b":[2.0],"a":1e0}'], "", '{"a": 1, "b": [2]}', [2, 1, 2]),
        (["it is 3", "hence 4", "so 4.0"], r"(\d[\d.]*)", "hence 4", [1, 2, 2]),
        (["1 then 2", "2 then 1", "x 2"], r"\d", "1 then 2", [2, 1, 2]),
        (["none", "so 4", "no"], r"\d+", "so 4", [0, 1, 0]),
        (["none", "nothing", "no"], r"\d+", "none", [0, 0, 0]),
        (["true", "1", "1.0"], "", "1", [1, 2, 2]),
        (['"a"', "a", "A"], "", "a", [1, 2, 2]),
    ],
)
async def test_the_answer_that_most_agree_on_is_given(
    texts: list[str], pattern: str, expected: str, scores: list[int]
) -> None:
    recipe = Vote(models("big"), samples=3, answer_pattern=pattern)
    result = await outcome(recipe, ScriptedMembers(big=Script(texts=texts)))
    assert result.text == expected
    assert [step.score for step in result.finished.steps] == scores


async def test_those_that_fail_have_no_vote() -> None:
    members = ScriptedMembers(
        a=Script(refuses=ModelNotLoaded("x")),
        b=Script("yes"),
        c=Script(fails_after=0, error=EngineLost("x")),
        d=Script("no"),
        e=Script("No"),
    )
    result = await outcome(Vote(models("a", "b", "c", "d", "e")), members)
    assert result.text == "no"
    assert [step.reason for step in result.finished.steps] == [
        "MODEL_NOT_LOADED",
        "OUTVOTED",
        "ENGINE_LOST",
        "",
        "AGREED",
    ]


async def test_a_request_that_is_wrong_ends_all() -> None:
    members = ScriptedMembers(
        a=Script(hangs_before=1), b=Script(refuses=InvalidArgument("no", field="stop"))
    )
    error = await failure(Vote(models("a", "b")), members)
    assert error.field == "stop"
    assert members.prepared[0].closed


async def test_members_run_at_the_same_time() -> None:
    release = asyncio.Event()
    members = ScriptedMembers(a=Script(prepares=release), b=Script("b"), c=Script("b"))
    running = begin(Vote(models("a", "b", "c")), members)
    while len(members.prepared) < 2:
        await asyncio.sleep(0)
    assert running.run.events.waiting == ()
    release.set()
    assert Outcome(await running.events()).text == "b"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=2, max_size=8))
def test_a_majority_always_wins(texts: list[str | None]) -> None:
    async def run() -> None:
        names = [f"m{place}" for place in range(len(texts))]
        scripts = {
            name: Script(refuses=QueueFull("x")) if text is None else Script(text)
            for name, text in zip(names, texts, strict=True)
        }
        recipe, members = Vote(models(*names)), ScriptedMembers(**scripts)
        given_texts = [text for text in texts if text is not None]
        if not given_texts:
            assert isinstance(await failure(recipe, members), QueueFull)
            return
        result = await outcome(recipe, members)
        most = max(map(given_texts.count, given_texts))
        assert result.text == next(text for text in given_texts if given_texts.count(text) == most)

    asyncio.run(run())


# Best of.

BEST = BestOf(models("a", "b"), ModelReference("judge"), samples=2)


async def test_the_answer_with_the_best_score_is_given() -> None:
    members = ScriptedMembers(
        a=Script(texts=["aaaa", "aa"]), b=Script(texts=["aaa", "a"]), judge=Script()
    )
    result = await outcome(BEST, members)
    assert result.text == "a"
    assert result.path == [
        ("a", False, "OUTSCORED", -4),
        ("a", False, "OUTSCORED", -2),
        ("b", False, "OUTSCORED", -3),
        ("b", True, "", -1),
        *[("judge", False, "JUDGE", score) for score in (-4, -2, -3, -1)],
    ]


async def test_only_the_answers_tokens_are_scored() -> None:
    members = ScriptedMembers(a=Script("x y z"), b=Script("q"), judge=Script())
    result = await outcome(BestOf(models("a", "b"), ModelReference("judge")), members)
    # The scripted prompt's own tokens have a much lower log-probability.
    assert [step.score for step in result.finished.steps] == [-5, -1, -5, -1]


async def test_an_empty_answer_and_one_without_a_number_lose() -> None:
    def score(text: str) -> float:
        return float("nan") if text == "b" else -100.0

    members = ScriptedMembers(
        a=Script(texts=["", "b"]), b=Script(texts=["c", ""]), judge=Script(scores=score)
    )
    assert (await outcome(BEST, members)).text == "c"


async def test_a_judge_that_fails_for_all_fails_the_generation() -> None:
    members = ScriptedMembers(
        a=Script(), b=Script(), judge=Script(refuses=ModelNotLoaded("not there"))
    )
    error = await failure(BEST, members)
    assert isinstance(error, ModelNotLoaded)
    assert "the judge judge could score no answer: not there" in error.message


# The end.


ALL = [
    FALLBACK,
    CASCADE,
    Vote(models("big", "small")),
    BestOf(models("big", "small"), ModelReference("small")),
]


@pytest.mark.parametrize("recipe", ALL)
@pytest.mark.parametrize("hangs_before", [0, 1, 2])
async def test_a_cancelled_one_ends_as_cancelled(recipe: Recipe, hangs_before: int) -> None:
    script = Script("a b c", hangs_before=hangs_before)
    members = ScriptedMembers(big=script, small=script)
    running = begin(recipe, members)
    for _ in range(20):
        await asyncio.sleep(0)
    running.run.cancel()
    events = [each for each in await running.events() if not isinstance(each, Delta)]
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.CANCELLED
    assert all(member.cancelled for member in members.prepared)


async def test_one_that_is_cancelled_while_it_is_prepared_begins_no_other() -> None:
    release = asyncio.Event()
    script = Script(prepares=release, refuses=ModelNotLoaded("x"))
    members = ScriptedMembers(big=script, small=Script("c"))
    running = begin(FALLBACK, members)
    await asyncio.sleep(0)
    running.run.cancel()
    release.set()
    with pytest.raises(Cancelled):
        await running.events()
    assert members.prepared == []


@pytest.mark.parametrize("recipe", ALL)
async def test_a_deadline_ends_all(recipe: Recipe) -> None:
    script = Script(hangs_before=1)
    members = ScriptedMembers(big=script, small=script)
    running = begin(recipe, members, deadline_s=time.monotonic() + 0.02)
    with pytest.raises(DeadlineExceeded):
        await running.events()
    assert running.ends == ["ended"]
    assert members.prepared
    assert all(member.closed for member in members.prepared)


async def test_a_defect_is_an_internal_error() -> None:
    running = begin(FALLBACK, ScriptedMembers())  # raises KeyError
    with pytest.raises(Internal):
        await running.events()


async def test_a_reader_that_leaves_ends_all_at_once() -> None:
    members = ScriptedMembers(big=Script(hangs_before=1), small=Script(hangs_before=1))
    running = begin(Vote(models("big", "small")), members)
    while len(members.prepared) < 2:
        await asyncio.sleep(0)
    running.run.abort(Cancelled("gone"))
    running.run.fail(Cancelled("again"))
    assert running.ends == ["ended"]
    assert all(member.closed for member in members.prepared)


# What is supported.


def test_what_a_recipe_cannot_do_is_named() -> None:
    tools = Chat((ChatTurn("user", "x"),), tools=Tools((Tool("f"),)))
    for request, recipe, field in (
        (asked(n=2), CASCADE, "n"),
        (asked(n=2), BEST, "n"),
        (asked(n=2), Vote(models("a", "b")), "n"),
        (asked(input=tools), BEST, "tools"),
        (asked(input=PromptTokens((1,))), BEST, "tokens"),
    ):
        with pytest.raises(FeatureNotSupported) as refused:
            check_supported(request, recipe)
        assert refused.value.field == field
    check_supported(asked(n=2), FALLBACK)
    check_supported(asked(input=tools), Vote(models("a", "b")))
    check_supported(asked(input=PromptTokens((1,))), CASCADE)


def test_every_error_has_an_answer() -> None:
    left = {cls.reason for cls in error_classes() if leaves_to_others(cls("x"))}
    assert {"MODEL_NOT_LOADED", "QUEUE_FULL", "ENGINE_LOST", "NO_REPLICA"} <= left
    assert {"CONTEXT_TOO_LONG", "INTERNAL", "MODEL_NOT_FOUND"} <= left
    assert not left & {"INVALID_FIELD", "CANCELLED", "DEADLINE_EXCEEDED", "READER_REPLACED"}


# How members end and are reported.


async def test_the_chosen_member_is_reported_as_such() -> None:
    members = ScriptedMembers(a=Script("no"), b=Script("yes"), c=Script("yes"))
    await outcome(Vote(models("a", "b", "c")), members)
    assert [member.reported_as_chosen for member in members.prepared] == [False, True, False]


@pytest.mark.parametrize(
    ("error", "told"),
    [(ReaderReplaced("goes on elsewhere"), ReaderReplaced), (Cancelled("left"), Cancelled)],
)
async def test_members_end_with_the_error_of_the_ensemble(
    error: MeshError, told: type[MeshError]
) -> None:
    """So that one that goes on in another process is not recorded twice."""
    members = ScriptedMembers(big=Script("a b", hangs_before=2), small=Script("c"))
    running = begin(FALLBACK, members)
    while not isinstance(running.run.events.pop(), Started):
        await asyncio.sleep(0)
    running.run.fail(error)
    [member] = members.prepared
    assert isinstance(member.closed_with, told)
    assert member.reported_as_chosen


async def test_members_that_miss_the_deadline_have_failed() -> None:
    members = ScriptedMembers(big=Script(hangs_before=1), small=Script("c"))
    running = begin(FALLBACK, members, deadline_s=time.monotonic() + 0.02)
    with pytest.raises(DeadlineExceeded):
        await running.events()
    assert isinstance(members.prepared[0].closed_with, DeadlineExceeded)
