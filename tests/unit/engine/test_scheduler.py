import itertools

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.scheduling.prefill_plan import PrefillSlice, count_tokens
from mlxmesh_engine.scheduling.request import SequenceRequest, Timings
from mlxmesh_engine.scheduling.scheduler import Scheduler
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.scheduling.step_times import PrefillTokens, StepTime


def active(number: int, tokens: int, generated: int = 0) -> ActiveSequence:
    return ActiveSequence(
        SequenceRequest(
            (1, number), tuple(range(tokens)), 10_000, generated=tuple(range(generated))
        )
    )


def scheduler(
    max_running: int = 4, budget: int = 100, kv_capacity_tokens: int | None = None
) -> Scheduler:
    return Scheduler(
        max_running=max_running,
        prefill_tokens_per_step=budget,
        prefill_slowdown=2.0,
        kv_capacity_tokens=kv_capacity_tokens,
    )


def plan(of: Scheduler) -> dict[int, int]:
    return {each.active.key[1]: each.count for each in of.plan_prefill()}


def step(of: Scheduler) -> list[int]:
    """Runs one prefill step; returns the sequences that are ready to decode."""
    return [each.active.key[1] for each in of.plan_prefill() if of.advance(each)]


def test_prefill_pauses_where_a_state_is_wanted() -> None:
    subject, paused = scheduler(), active(1, 51)
    paused.pause_at = 32
    subject.add(paused)
    subject.admit(0.0)
    (first,) = subject.plan_prefill()
    assert (first.start, first.count, first.pauses) == (0, 32, True)
    assert not subject.advance(first)
    (second,) = subject.plan_prefill()
    assert (second.start, second.count, second.pauses) == (32, 18, False)
    assert subject.advance(second)


def test_slots_go_to_the_longest_waiting() -> None:
    subject = scheduler(max_running=2)
    for number in (1, 2, 3):
        subject.add(active(number, 5))
    subject.admit(0.0)
    assert (subject.running, subject.waiting) == (2, 1)
    assert set(plan(subject)) == {1, 2}


def test_a_slot_is_free_after_a_removal() -> None:
    subject = scheduler(max_running=1)
    first, second = active(1, 5), active(2, 5)
    subject.add(first)
    subject.add(second)
    subject.admit(0.0)
    assert step(subject) == [1]
    subject.admit(0.0)
    assert subject.waiting == 1
    subject.remove(first)
    subject.admit(0.0)
    assert (subject.running, subject.waiting) == (1, 0)


def wanting(number: int, tokens: int, *, caller: str = "", priority: int = 0) -> ActiveSequence:
    """A sequence that may reach this many tokens."""
    return ActiveSequence(
        SequenceRequest(
            (1, number), (1, 2), tokens - 2, caller=caller, priority=priority, submitted_s=0.0
        )
    )


def admitted(of: Scheduler) -> list[int]:
    of.admit(0.0)
    return [each.active.key[1] for each in of.plan_prefill()]


def test_a_sequence_that_lacks_memory_waits_and_is_not_overtaken() -> None:
    subject = scheduler(kv_capacity_tokens=100)
    first, large, small = wanting(1, 60), wanting(2, 50), wanting(3, 10)
    for each in (first, large, small):
        subject.add(each)
    assert admitted(subject) == [1]
    assert (subject.running, subject.waiting, subject.reserved_tokens) == (1, 2, 120)
    subject.remove(first)
    assert subject.reserved_tokens == 60
    assert admitted(subject) == [2, 3]


def test_reserved_tokens_end_with_each_sequence_in_every_state() -> None:
    subject = scheduler(max_running=2, kv_capacity_tokens=1000)
    for each in (all_ := [wanting(number, 100) for number in range(1, 5)]):
        subject.add(each)
    subject.admit(0.0)
    step(subject)
    assert subject.reserved_tokens == 400
    for left, each in zip((300, 200, 100, 0), all_, strict=True):
        subject.remove(each)
        subject.remove(each)
        assert subject.reserved_tokens == left


def test_slots_alternate_between_callers_and_go_to_the_highest_priority() -> None:
    subject = scheduler(max_running=3)
    for number in (1, 2, 3):
        subject.add(wanting(number, 50, caller="a", priority=number))
    subject.add(wanting(4, 50, caller="b"))
    assert admitted(subject) == [3, 4, 2]


def test_removal_works_in_every_state() -> None:
    subject = scheduler(max_running=2)
    running, prefilling, waiting = active(1, 5), active(2, 5000), active(3, 5)
    for each in (running, prefilling, waiting):
        subject.add(each)
    subject.admit(0.0)
    assert step(subject) == [1]
    for each in (running, prefilling, waiting):
        subject.remove(each)
    assert list(subject) == []


def test_the_budget_bounds_a_step() -> None:
    subject = scheduler(budget=100)
    for number in range(1, 5):
        subject.add(active(number, 1000))
    subject.admit(0.0)
    assert sum(plan(subject).values()) == 100


def test_a_short_prompt_overtakes_long_ones() -> None:
    subject = scheduler(budget=100)
    subject.add(active(1, 4001))
    subject.add(active(2, 4001))
    subject.add(active(3, 21))
    subject.admit(0.0)
    assert plan(subject) == {1: 80, 3: 20}
    assert step(subject) == [3]


def test_the_oldest_gets_the_rest_of_the_budget() -> None:
    subject = scheduler(budget=100)
    subject.add(active(1, 4001))
    subject.add(active(2, 11))
    subject.admit(0.0)
    assert plan(subject) == {1: 90, 2: 10}


def test_slices_are_consecutive_and_end_before_the_last_token() -> None:
    subject = scheduler(budget=10)
    subject.add(active(1, 26))
    subject.admit(0.0)
    seen: list[int] = []
    while True:
        (slice_,) = subject.plan_prefill()
        seen += slice_.token_ids
        if subject.advance(slice_):
            break
    assert seen == list(range(25))
    assert subject.plan_prefill() == []


def test_generated_tokens_are_prefilled_like_the_prompt() -> None:
    resumed = active(1, 3, generated=4)
    assert resumed.tokens == (0, 1, 2, 0, 1, 2, 3)
    assert resumed.prefill_tokens == 6
    assert resumed.launched == resumed.generated_tokens == 4


def test_a_prompt_of_one_token_needs_no_prefill() -> None:
    subject = scheduler()
    subject.add(active(1, 1))
    subject.admit(0.0)
    (slice_,) = subject.plan_prefill()
    assert slice_.count == 0
    assert slice_.whole_prompt
    assert subject.advance(slice_)


def test_a_budget_of_one_makes_progress() -> None:
    subject = scheduler(budget=1)
    subject.add(active(1, 3))
    subject.add(active(2, 3))
    subject.admit(0.0)
    ready = [number for _ in range(4) for number in step(subject)]
    assert ready == [1, 2]


def test_whole_prompt_is_true_only_for_all_of_it() -> None:
    each = active(1, 11)
    assert PrefillSlice(each, 0, 10).whole_prompt
    assert not PrefillSlice(each, 0, 9).whole_prompt
    assert not PrefillSlice(each, 5, 5).whole_prompt


def test_cached_tokens_are_not_planned() -> None:
    subject = scheduler(budget=100)
    long, short = active(1, 501), active(2, 41)
    for each in (long, short):
        subject.add(each)
    subject.admit(0.0)
    assert subject.awaiting_prefill() == [long, short]
    long.skip_cached(480)
    first, second = subject.plan_prefill()
    assert (first.start, first.count) == (480, 20)
    assert first.first
    assert first.whole_prompt
    assert subject.advance(first)
    assert (second.start, second.count) == (0, 40)
    assert subject.awaiting_prefill() == [short]


def test_a_fully_cached_prompt_needs_no_prefill() -> None:
    subject = scheduler()
    each = active(1, 65)
    subject.add(each)
    subject.admit(0.0)
    each.skip_cached(64)
    (slice_,) = subject.plan_prefill()
    assert slice_.count == 0
    assert subject.advance(slice_)
    assert each.kv_token_ids == tuple(range(64))


def test_a_cache_row_has_all_tokens_that_went_into_the_model() -> None:
    each = active(1, 3, generated=2)
    assert each.kv_token_ids == (0, 1, 2, 0)
    each.launched += 1
    assert each.kv_token_ids == (0, 1, 2, 0, 1)
    # The step after this token was started before the token was known.
    each.launched += 1
    each.append_tokens((77,), 1.0)
    assert each.kv_token_ids == (0, 1, 2, 0, 1, 77)
    assert each.generated_tokens == 3


def test_cached_output_is_not_cached_prompt() -> None:
    each = active(1, 3, generated=40)
    each.skip_cached(32)
    assert each.cached_prompt_tokens == 3


def test_timings_follow_the_clock() -> None:
    each = ActiveSequence(SequenceRequest((1, 1), (1, 2), 10, submitted_s=1.0))
    each.admit(1.5)
    each.append_tokens((7,), 2.5)
    each.append_tokens((7,), 3.0)
    each.append_tokens((7,), 4.5)
    timings = each.timings(9.0)
    assert (timings.queue_ms, timings.prefill_ms, timings.decode_ms) == (500, 1000, 2000)


def test_a_phase_that_had_not_begun_took_no_time() -> None:
    each = ActiveSequence(SequenceRequest((1, 1), (1, 2), 10, submitted_s=1.0))
    assert each.timings(3.0) == Timings(2000, 0, 0)
    each.admit(1.5)
    assert each.timings(3.0) == Timings(500, 1500, 0)


def test_after_a_slow_step_less_is_prefilled() -> None:
    subject = scheduler(budget=100)
    subject.add(active(1, 5000))
    subject.admit(0.0)
    assert plan(subject) == {1: 100}
    subject.record_step(StepTime(20.0, PrefillTokens(100), decoding=False))
    assert plan(subject) == {1: 25}


def test_of_a_burst_only_whole_prompts_are_prefilled() -> None:
    subject = scheduler(max_running=64, budget=100)
    for number in range(1, 33):
        subject.add(active(number, 31))
    subject.admit(0.0)
    assert plan(subject) == {1: 30, 2: 30, 3: 30}
    assert step(subject) == [1, 2, 3]
    assert step(subject) == [4, 5, 6]


def test_only_one_prompt_is_cut_and_only_for_half_of_the_budget() -> None:
    subject = scheduler(max_running=8, budget=100)
    for number, tokens in enumerate([31, 201, 202, 61], start=1):
        subject.add(active(number, tokens))
    subject.admit(0.0)
    assert plan(subject) == {1: 30, 4: 60}
    assert step(subject) == [1, 4]
    assert plan(subject) == {2: 100}
    assert step(subject) == []
    assert step(subject) == [2]
    subject.add(active(5, 31))
    subject.admit(0.0)
    assert plan(subject) == {3: 70, 5: 30}


@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(0, 30)), min_size=1, max_size=12),
    st.integers(8, 600),
    st.lists(st.floats(0.0, 30.0), min_size=1, max_size=50),
    st.booleans(),
)
def test_every_admitted_prompt_is_prefilled_within_bounded_steps(
    arrivals: list[tuple[int, int]], budget: int, durations: list[float], decoding: bool
) -> None:
    subject = scheduler(max_running=100, budget=budget)
    if decoding:
        subject.add(active(0, 1))
    pending = sorted(enumerate(arrivals, start=1), key=lambda each: each[1][1])
    bound = 40 + 12 * sum(tokens for tokens, _ in arrivals)
    for at, step_s in zip(range(bound), itertools.cycle(durations), strict=False):
        while pending and pending[0][1][1] <= at:
            number, (tokens, _) = pending.pop(0)
            subject.add(active(number, tokens))
        subject.admit(0.0)
        slices = subject.plan_prefill()
        assert all(each.count <= budget for each in slices)
        assert sum(not each.whole_prompt for each in slices if not each.active.long) <= 2
        decoding |= bool([each for each in slices if subject.advance(each)])
        subject.record_step(StepTime(step_s, count_tokens(slices), decoding=decoding))
        if not pending and not subject.prefilling:
            return
    raise AssertionError("a prompt starved")


def decoding_beside(*prompts: int) -> Scheduler:
    """Sequence 1 decodes; these prompts, of sequences 2 and up, have slots."""
    subject = scheduler(budget=500)
    subject.add(active(1, 1))
    subject.admit(0.0)
    assert step(subject) == [1]
    for number, tokens in enumerate(prompts, start=2):
        subject.add(active(number, tokens))
    subject.admit(0.0)
    subject.record_step(StepTime(0.010, PrefillTokens(), decoding=True))
    for _ in range(4):
        # A probe measures steps without them.
        assert not {2, 3} & plan(subject).keys()
    return subject


def test_beside_decode_one_long_prompt_advances_within_the_slowdown() -> None:
    subject = decoding_beside(4001, 4001)
    subject.record_step(StepTime(0.040, PrefillTokens(long_tokens=16), decoding=True))
    assert plan(subject) == {}, "the step took more than it had earned"
    subject.record_step(StepTime(0.010, PrefillTokens(), decoding=True))
    assert plan(subject) == {2: 5}


def test_beside_decode_a_short_prompt_is_prefilled_at_once() -> None:
    subject = decoding_beside(4001, 4001, 101)
    assert plan(subject) == {2: 16, 4: 100}


def test_a_step_with_short_prompts_does_not_change_the_long_prompt_budget() -> None:
    subject = decoding_beside(4001)
    subject.record_step(
        StepTime(9.0, PrefillTokens(long_tokens=16, other_tokens=100), decoding=True)
    )
    assert plan(subject) == {2: 16}


def test_the_rest_of_a_long_prompt_still_counts_as_long() -> None:
    subject = decoding_beside(258)
    while (slices := subject.plan_prefill()) and not any(map(subject.advance, slices)):
        assert all(each.count <= 16 for each in slices)


def test_the_oldest_waiting_sequence_is_known_in_any_order_of_service() -> None:
    subject = scheduler(max_running=1)
    assert subject.oldest_waiting_s is None
    for number, (submitted_s, priority) in enumerate([(1.0, 0), (2.0, 0), (3.0, 9)]):
        request = SequenceRequest(
            (1, number), (1, 2), 10, submitted_s=submitted_s, priority=priority
        )
        subject.add(ActiveSequence(request))
    assert subject.oldest_waiting_s == 1.0
    subject.admit(4.0)  # the one with the highest priority
    assert subject.oldest_waiting_s == 1.0
    for each in list(subject):
        subject.remove(each)
    assert subject.oldest_waiting_s is None
