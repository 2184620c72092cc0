import pytest

from tests.bench.bench_prefill_stall import Gap, stall_p99


def gaps(*seconds: float) -> list[Gap]:
    return [Gap(wall_s=each, cpu_s=0.0) for each in seconds]


def test_a_gap_is_compared_with_the_quiet_gap_of_its_time() -> None:
    before, after = gaps(1, 1, 1), gaps(3, 3, 3)
    busy = gaps(2, 3, 4, 5)
    assert stall_p99(before, busy, after, lambda gap: gap.wall_s) == pytest.approx(2)
