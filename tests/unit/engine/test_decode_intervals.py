from mlxmesh_engine.scheduling.prefill_budget import DecodeIntervals, PrefillTokens


def test_an_interval_has_the_larger_of_the_last_two_prefills() -> None:
    pace = DecodeIntervals()
    found = []
    for step in range(1, 5):
        found.append(pace.step_ended(step * 10.0))
        pace.prefill_started(PrefillTokens(long_tokens=step))
    assert found == [None, None, (10.0, PrefillTokens(2)), (10.0, PrefillTokens(3))]


def test_a_step_between_prefill_and_no_prefill_is_ambiguous() -> None:
    pace = DecodeIntervals()
    for step, tokens in enumerate([5, 5, 0]):
        pace.step_ended(float(step))
        pace.prefill_started(PrefillTokens(tokens))
    assert pace.step_ended(3.0) is None
    pace.prefill_started(PrefillTokens())
    assert pace.step_ended(4.0) == (1.0, PrefillTokens())


def test_a_pause_is_not_an_interval() -> None:
    pace = DecodeIntervals()
    for now_s in (1.0, 2.0):
        pace.step_ended(now_s)
        pace.prefill_started(PrefillTokens())
    pace.reset()
    assert pace.step_ended(100.0) is None
    pace.prefill_started(PrefillTokens())
    assert pace.step_ended(101.0) is None
