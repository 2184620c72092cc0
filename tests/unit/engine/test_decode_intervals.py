from mlxmesh_engine.scheduling.prefill_budget import DecodeIntervals, PrefillTokens


def test_the_larger_of_the_last_two_reads_lies_between_two_ends() -> None:
    pace = DecodeIntervals()
    found = []
    for turn in range(1, 5):
        found.append(pace.step_ended(turn * 10.0))
        pace.prefill_started(PrefillTokens(long_tokens=turn))
    assert found == [None, None, (10.0, PrefillTokens(2)), (10.0, PrefillTokens(3))]


def test_a_step_between_reading_and_not_reading_tells_nothing() -> None:
    pace = DecodeIntervals()
    for turn, tokens in enumerate([5, 5, 0]):
        pace.step_ended(float(turn))
        pace.prefill_started(PrefillTokens(tokens))
    assert pace.step_ended(3.0) is None
    pace.prefill_started(PrefillTokens())
    assert pace.step_ended(4.0) == (1.0, PrefillTokens())


def test_a_pause_is_not_a_step() -> None:
    pace = DecodeIntervals()
    for now_s in (1.0, 2.0):
        pace.step_ended(now_s)
        pace.prefill_started(PrefillTokens())
    pace.reset()
    assert pace.step_ended(100.0) is None
    pace.prefill_started(PrefillTokens())
    assert pace.step_ended(101.0) is None
