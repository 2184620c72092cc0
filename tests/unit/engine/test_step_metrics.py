import pytest

from mlxmesh_engine.service.telemetry import StepMetrics, TokenRate


def test_a_step_lasts_from_the_end_of_the_previous_one() -> None:
    steps = StepMetrics()
    for now_s, rows in ((1.0, 2), (1.01, 2), (1.03, 1), (5.0, 0), (9.0, 4), (9.02, 4)):
        steps.record(now_s, rows)
    assert steps.tokens == 13
    assert sum(steps.batch_sizes.counts) == 5
    assert (steps.batch_sizes.minimum, steps.batch_sizes.maximum) == (1, 4)
    assert sum(steps.durations.counts) == 3
    assert steps.durations.total == pytest.approx(0.05)


def test_counts_the_last_second() -> None:
    subject = TokenRate()
    for step in range(10):
        subject.add(step * 0.1, 32)
    assert subject.per_second(0.95) == 320
    assert subject.per_second(1.45) == 160
    assert subject.per_second(60.0) == 0
