"""What the time between two steps is attributed to."""

from mlxmesh_engine.scheduling.step_times import PrefillTokens, StepTime, StepTimes


def test_where_launches_block_an_interval_has_the_last_prefill() -> None:
    times = StepTimes(overlapping=False)
    found: list[StepTime | None] = []
    for step, tokens in enumerate([7, 0, 3], start=1):
        found.append(times.ended(step * 10.0, decoding=step > 1))
        times.prefill_started(PrefillTokens(tokens))
    found.append(times.ended(45.0, decoding=True))
    assert found == [
        None,
        StepTime(10.0, PrefillTokens(7), decoding=True),
        StepTime(10.0, PrefillTokens(0), decoding=True),
        StepTime(15.0, PrefillTokens(3), decoding=True),
    ]


def test_prefill_that_nothing_decodes_beside_is_measured_alone() -> None:
    for overlapping in (True, False):
        times = StepTimes(overlapping=overlapping)
        times.ended(1.0, decoding=False)
        times.prefill_started(PrefillTokens(0, 64))
        assert times.ended(3.0, decoding=False) == StepTime(2.0, PrefillTokens(0, 64), False)


def test_an_idle_time_is_not_a_step() -> None:
    times = StepTimes(overlapping=False)
    for now_s in (1.0, 2.0, 100.0):
        assert times.ended(now_s, decoding=False) is None
        times.prefill_started(PrefillTokens())


def test_where_launches_overlap_an_interval_has_the_larger_of_the_last_two_prefills() -> None:
    times = StepTimes(overlapping=True)
    found: list[StepTime | None] = []
    for step in range(1, 5):
        found.append(times.ended(step * 10.0, decoding=True))
        times.prefill_started(PrefillTokens(long_tokens=step))
    assert found[:2] == [None, None]
    assert found[2:] == [
        StepTime(10.0, PrefillTokens(2), decoding=True),
        StepTime(10.0, PrefillTokens(3), decoding=True),
    ]


def test_an_overlapping_step_between_prefill_and_no_prefill_is_ambiguous() -> None:
    times = StepTimes(overlapping=True)
    for step, tokens in enumerate([5, 5, 0]):
        times.ended(float(step), decoding=True)
        times.prefill_started(PrefillTokens(tokens))
    assert times.ended(3.0, decoding=True) is None
    times.prefill_started(PrefillTokens())
    assert times.ended(4.0, decoding=True) == StepTime(1.0, PrefillTokens(), decoding=True)


def test_an_interval_that_was_reset_has_no_beginning() -> None:
    times = StepTimes(overlapping=False)
    times.ended(1.0, decoding=True)
    times.prefill_started(PrefillTokens())
    times.reset()
    times.prefill_started(PrefillTokens())
    assert times.ended(100.0, decoding=True) is None
    times.prefill_started(PrefillTokens())
    assert times.ended(101.0, decoding=True) == StepTime(1.0, PrefillTokens(), decoding=True)
