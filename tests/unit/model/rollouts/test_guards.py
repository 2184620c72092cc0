"""What guards read."""

from collections.abc import Iterable

import pytest

from mlxmesh_model.outcomes.outcome import Outcome, Status
from mlxmesh_model.rollouts.guards import Counts, count, read
from mlxmesh_model.rollouts.rollout import Guard, Metric
from tests.fakes.rollouts import failed, outcome

NOTHING = Counts()


def total(outcomes: Iterable[Outcome]) -> Counts:
    counts = Counts()
    for each in outcomes:
        counts += count(each)
    return counts


def of(good: int, bad: int = 0) -> Counts:
    return total([outcome(n) for n in range(good)] + [failed(n) for n in range(bad)])


def test_refused_and_cancelled_requests_do_not_count() -> None:
    assert count(outcome(status=Status.REFUSED)) == NOTHING
    assert count(outcome(status=Status.CANCELLED)) == NOTHING


def test_a_failure_has_no_times_and_no_tokens() -> None:
    assert count(failed()) == Counts(requests=1, errors=1)


@pytest.mark.parametrize(
    ("guard", "value"),
    [
        (Guard(Metric.ERROR_RATE, 1), 0.2),
        (Guard(Metric.TOKENS_PER_REQUEST, 1), 25.0),
        (Guard(Metric.INVALID_RATE, 1), 0.5),
    ],
)
def test_values(guard: Guard, value: float) -> None:
    new = total(
        [
            failed(),
            outcome(completion_tokens=10, schema_valid=True),
            outcome(completion_tokens=20, schema_valid=True, tools_valid=False),
            outcome(completion_tokens=30),
            outcome(completion_tokens=40),
        ]
    )
    assert read(guard, new, NOTHING).value == value


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Metric.TTFT_P50, 50),
        (Metric.TTFT_P95, 95),
        (Metric.TTFT_P99, 99),
        (Metric.TPOT_P50, 5),
        (Metric.TPOT_P95, 9.5),
    ],
)
def test_percentiles_are_exact_to_three_percent(metric: Metric, expected: float) -> None:
    new = total(outcome(ttft_ms=float(n), tpot_ms=n / 10) for n in range(1, 101))
    assert read(Guard(metric, 1), new, NOTHING).value == pytest.approx(expected, rel=0.04)


def test_a_bound_is_kept_up_to_itself() -> None:
    new = of(99, 1)
    assert read(Guard(Metric.ERROR_RATE, 0.01), new, NOTHING).kept
    assert not read(Guard(Metric.ERROR_RATE, 0.0099), new, NOTHING).kept
    assert read(Guard(Metric.TOKENS_PER_REQUEST, 10, above=True), new, NOTHING).kept
    assert not read(Guard(Metric.TOKENS_PER_REQUEST, 10.1, above=True), new, NOTHING).kept


def test_a_relative_bound_is_a_factor_of_the_present_version() -> None:
    fast = total(outcome(ttft_ms=100.0) for _ in range(10))
    slow = total(outcome(ttft_ms=130.0) for _ in range(10))
    guard = Guard(Metric.TTFT_P95, 1.2, relative=True)
    reading = read(guard, slow, fast)
    assert not reading.kept
    assert reading.value == pytest.approx(130, rel=0.04)
    assert reading.baseline == pytest.approx(100, rel=0.04)
    assert read(guard, fast, slow).kept


def test_without_requests_every_bound_is_kept() -> None:
    for metric in Metric:
        reading = read(Guard(metric, 0), NOTHING, of(10))
        assert (reading.value, reading.kept) == (None, True)
        reading = read(Guard(metric, 1, relative=True), of(10), NOTHING)
        assert (reading.baseline, reading.kept) == (None, True)


def test_only_a_rate_is_broken_for_certain() -> None:
    new = total(failed(n) if n % 4 == 0 else outcome(n, schema_valid=False) for n in range(40))
    assert read(Guard(Metric.ERROR_RATE, 0.01), new, NOTHING).certain
    assert read(Guard(Metric.INVALID_RATE, 0.01), new, NOTHING).certain
    assert not read(Guard(Metric.TTFT_P50, 1), new, NOTHING).certain
    assert not read(Guard(Metric.ERROR_RATE, 0.01), of(60, 1), NOTHING).certain


def test_a_relative_rate_is_broken_for_certain_only_beyond_the_baseline_s_own_chance() -> None:
    guard = Guard(Metric.ERROR_RATE, 2, relative=True)
    assert read(guard, of(80, 20), of(990, 10)).certain
    reading = read(guard, of(80, 20), of(9, 1))
    assert (reading.kept, reading.certain) == (True, False)
    reading = read(guard, of(17, 3), of(95, 5))
    assert (reading.kept, reading.certain) == (False, False)


def test_texts_of_guards() -> None:
    assert str(Guard(Metric.ERROR_RATE, 0.01)) == "error_rate<1%"
    assert str(Guard(Metric.TTFT_P95, 1.2, relative=True)) == "ttft_p95<1.2x"
    assert str(Guard(Metric.TPOT_P50, 20)) == "tpot_p50<20ms"
    assert str(Guard(Metric.TOKENS_PER_REQUEST, 10, above=True)) == "tokens_per_request>10"
