import pytest

from mlxmesh_engine.scheduling.pace import StepCounts


def test_a_step_lasts_from_the_end_of_the_one_before() -> None:
    steps = StepCounts()
    for now_s, rows in ((1.0, 2), (1.01, 2), (1.03, 1), (5.0, 0), (9.0, 4), (9.02, 4)):
        steps.turned(now_s, rows)
    assert steps.tokens == 13
    assert sum(steps.batch_sizes.counts) == 5
    assert (steps.batch_sizes.minimum, steps.batch_sizes.maximum) == (1, 4)
    assert sum(steps.durations.counts) == 3
    assert steps.durations.total == pytest.approx(0.05)
