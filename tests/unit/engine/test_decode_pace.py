from mlxmesh_engine.scheduling.pace import DecodePace, Read


def test_the_larger_of_the_last_two_reads_lies_between_two_ends() -> None:
    pace = DecodePace()
    found = []
    for turn in range(1, 5):
        found.append(pace.step_ended(turn * 10.0))
        pace.reads(Read(long_tokens=turn))
    assert found == [None, None, (10.0, Read(2)), (10.0, Read(3))]


def test_a_step_between_reading_and_not_reading_tells_nothing() -> None:
    pace = DecodePace()
    for turn, tokens in enumerate([5, 5, 0]):
        pace.step_ended(float(turn))
        pace.reads(Read(tokens))
    assert pace.step_ended(3.0) is None
    pace.reads(Read())
    assert pace.step_ended(4.0) == (1.0, Read())


def test_a_pause_is_not_a_step() -> None:
    pace = DecodePace()
    for now_s in (1.0, 2.0):
        pace.step_ended(now_s)
        pace.reads(Read())
    pace.no_step_ended()
    assert pace.step_ended(100.0) is None
    pace.reads(Read())
    assert pace.step_ended(101.0) is None
