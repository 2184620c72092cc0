"""Background sequences in the scheduler: who gets rows, memory and turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.scheduling.background import (
    SHARE,
    BackgroundPace,
    BackgroundSlices,
    BackgroundTurn,
)
from mlxmesh_engine.scheduling.request import SequenceRequest, Update
from mlxmesh_engine.scheduling.scheduler import Scheduler
from mlxmesh_engine.scheduling.sequence import ActiveSequence


def active(
    number: int, *, background: bool = False, tokens: int = 5, max_tokens: int = 5
) -> ActiveSequence:
    prompt = tuple(range(tokens))
    return ActiveSequence(SequenceRequest((1, number), prompt, max_tokens, background=background))


def scheduler(max_running: int = 4, kv_capacity_tokens: int | None = None) -> Scheduler:
    return Scheduler(
        max_running=max_running, prefill_tokens_per_step=100, kv_capacity_tokens=kv_capacity_tokens
    )


def add(subject: Scheduler, *actives: ActiveSequence) -> None:
    for each in actives:
        subject.add(each)


def prefill(subject: Scheduler) -> None:
    for slice_ in [*subject.plan_prefill(), *subject.plan_background_prefill()]:
        subject.advance(slice_)


def test_a_background_sequence_waits_for_all_others() -> None:
    subject = scheduler(max_running=1)
    add(subject, active(1, background=True), active(2), active(3))
    subject.admit(0.0)
    assert (subject.running, subject.background_running) == (1, 0)


def test_it_does_not_count_as_load() -> None:
    subject = scheduler(max_running=2)
    add(subject, *(active(number, background=True) for number in range(1, 6)))
    subject.admit(0.0)
    assert (subject.background_running, subject.background_waiting) == (2, 3)
    assert (subject.running, subject.waiting, subject.reserved_tokens) == (0, 0, 0)
    assert subject.oldest_waiting_s is None


def test_another_sequence_gets_a_slot_at_once_while_all_rows_are_taken() -> None:
    subject = scheduler(max_running=2)
    add(subject, active(1, background=True), active(2, background=True))
    subject.admit(0.0)
    prefill(subject)
    add(subject, active(3), active(4))
    assert subject.admit(0.0) == []
    assert (subject.running, subject.background_running) == (2, 2)


def test_it_pauses_while_a_prompt_waits_or_is_in_prefill() -> None:
    subject = scheduler()
    add(subject, active(1, background=True), active(2, background=True))
    subject.admit(0.0)
    prefill(subject)
    assert subject.background_turn() == BackgroundTurn(decode=True)
    add(subject, active(3))
    assert not subject.background_turn()
    subject.admit(0.0)
    assert not subject.background_turn()


def test_it_gives_up_memory_that_another_sequence_needs_and_is_queued_again() -> None:
    subject = scheduler(kv_capacity_tokens=40)
    first, second = active(1, background=True), active(2, background=True)
    add(subject, first, second)
    subject.admit(0.0)
    assert subject.background_running == 2
    prefill(subject)
    add(subject, active(3, tokens=15, max_tokens=10))
    assert subject.must_requeue
    assert subject.admit(0.0) == [second]
    assert (subject.running, subject.background_running, subject.background_waiting) == (1, 1, 1)


def test_nothing_is_given_up_for_a_sequence_that_does_not_fit_anyway() -> None:
    subject = scheduler(kv_capacity_tokens=40)
    running = active(1, tokens=15, max_tokens=10)
    add(subject, running, active(2, background=True, tokens=2, max_tokens=3))
    subject.admit(0.0)
    prefill(subject)
    subject.admit(0.0)
    assert subject.background_running == 1
    add(subject, active(3, tokens=15, max_tokens=10))
    assert subject.admit(0.0) == []
    assert subject.background_running == 1


def test_it_leaves_memory_free_unless_it_is_alone() -> None:
    subject = scheduler(kv_capacity_tokens=40)
    add(subject, active(1, background=True, tokens=20, max_tokens=20))
    add(subject, active(2, background=True, tokens=2, max_tokens=2))
    subject.admit(0.0)
    assert (subject.background_running, subject.background_waiting) == (1, 1)


def test_a_requeued_sequence_continues_after_its_tokens() -> None:
    sequence = active(1, background=True, tokens=6, max_tokens=9)
    sequence.admit(1.0)
    sequence.skip_cached(2)
    sequence.append_tokens((7,), 2.0)
    sequence.requeue()
    assert sequence.tokens == (0, 1, 2, 3, 4, 5, 7)
    assert sequence.remaining_prefill == 6
    sequence.skip_cached(6)
    sequence.admit(5.0)
    timings = sequence.timings(9.0)
    assert (timings.queue_ms, timings.prefill_ms) == (1e3, 1e3)
    assert timings.cached_tokens == 2


def test_tokens_of_background_sequences_are_sent_together() -> None:
    sequence = active(1, background=True)
    assert sequence.hold(Update(1, token_ids=(5,)), 10.0) is None
    assert sequence.hold(Update(1, token_ids=(6,)), 10.1) is None
    due = sequence.hold(Update(1, token_ids=(7,)), 10.3)
    assert due is not None
    assert due.token_ids == (5, 6, 7)
    assert sequence.release() is None


@given(
    costs=st.lists(st.floats(0.5, 30), min_size=1, max_size=20),
    baseline_s=st.floats(0.001, 0.05),
)
def test_background_work_takes_its_share_of_decoding(costs: list[float], baseline_s: float) -> None:
    subject = BackgroundPace()
    subject.record(baseline_s, background=False)
    total_s, steps, done = 0.0, 0, 0
    for _ in range(4_000):
        turn = subject.turn(prefilling=False, decoding=True)
        extra_s = baseline_s * costs[done % len(costs)] if turn else 0.0
        done += bool(turn)
        subject.record(baseline_s + extra_s, background=bool(turn))
        total_s += baseline_s + extra_s
        steps += 1
    assert done
    # One step may exceed what was earned.
    assert total_s <= steps * baseline_s * (1 + SHARE) + 31 * baseline_s


def test_decode_steps_and_slices_take_turns() -> None:
    subject = BackgroundPace()
    subject.record(0.01, background=False)
    turns = [subject.turn(prefilling=True, decoding=True) for _ in range(3)]
    assert [turn.prefill for turn in turns] == [True, False, True]
    assert [turn.decode for turn in turns] == [False, True, False]


def test_a_slice_takes_about_a_decode_step_unless_it_can_be_interrupted() -> None:
    short, long = (BackgroundSlices(4096, interruptible=each) for each in (False, True))
    for subject in (short, long):
        for tokens in (16, 32, 64, 128) * 5:
            subject.record(0.002 + 0.0005 * tokens, tokens)
    assert 90 <= short.tokens(0.05) <= 100
    assert 480 <= long.tokens(0.05) <= 500


def test_nothing_runs_beside_a_first_token_that_is_due() -> None:
    subject = scheduler()
    behind, first = active(1, background=True), active(2)
    add(subject, behind)
    subject.admit(0.0)
    add(subject, first)
    subject.admit(0.0)
    for slice_ in subject.plan_prefill():
        subject.advance(slice_)
    for _ in range(3):
        subject.record_pace(0.01, background=False)
    assert not subject.background_turn()
    first.append_tokens((7,), 0.1)
    assert subject.background_turn()


def test_slices_are_shorter_while_they_are_interrupted() -> None:
    subject = BackgroundSlices(4096, interruptible=True)
    for tokens in (16, 32, 64, 128) * 5:
        subject.record(0.002 + 0.0005 * tokens, tokens)
    full, halves = subject.tokens(0.05), list[int]()
    for _ in range(8):
        subject.interrupted()
        halves.append(subject.tokens(0.05))
    assert halves[0] < 0.55 * full
    assert halves[-1] == halves[-2] == BackgroundSlices.tokens(subject, 0.05)
    assert 90 <= halves[-1] <= 100  # a decode step's
    for _ in range(40):
        subject.record(0.002 + 0.0005 * 90, 90)
    assert subject.tokens(0.05) == pytest.approx(full, rel=0.05)


_ACTIONS = st.lists(
    st.tuples(st.sampled_from(["add", "add background", "step", "remove"]), st.integers(1, 12)),
    max_size=120,
)


@given(actions=_ACTIONS)
def test_memory_and_slots_are_never_exceeded_and_no_foreground_waits_for_background(
    actions: list[tuple[str, int]],
) -> None:
    subject = scheduler(max_running=3, kv_capacity_tokens=40)
    actives: list[ActiveSequence] = []
    must_requeue = False
    for number, (action, size) in enumerate(actions):
        if action.startswith("add"):
            background = action == "add background"
            actives.append(active(number, background=background, tokens=size, max_tokens=size))
            subject.add(actives[-1])
        elif action == "remove" and actives:
            subject.remove(actives.pop(size % len(actives)))
        else:
            requeued = subject.admit(0.0)
            assert not requeued or must_requeue
            for each in requeued:
                each.requeue()
            prefill(subject)
        must_requeue = subject.must_requeue
        check(subject, actives)


def check(subject: Scheduler, actives: list[ActiveSequence]) -> None:
    others = [each for each in actives if not each.request.background]
    assert subject.running + subject.waiting == len(others)
    assert subject.running <= 3
    background = subject.background_running + subject.background_waiting
    assert background == len(actives) - len(others)
    reserved = sum(each.request.max_total_tokens for each in actives)
    waiting = [each for each in [*subject][subject.running :] if each in others]
    kept = sum(each.request.max_total_tokens for each in waiting[: subject.waiting])
    paused = [*subject][len(others) + subject.background_running :]
    queued = sum(each.request.max_total_tokens for each in paused)
    assert reserved - kept - queued <= 40
