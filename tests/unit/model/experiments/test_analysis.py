"""From recorded outcomes to intervals and words."""

import math

import numpy as np
import pytest

from mlxmesh_model.experiments import sample_ratio, verdict
from mlxmesh_model.experiments.analysis import ArmResult, Levels, analyze
from mlxmesh_model.experiments.metrics import Metric
from mlxmesh_model.experiments.sequences import Interval
from mlxmesh_model.experiments.tally import Tally
from mlxmesh_model.outcomes.outcome import Status
from tests.fakes.outcomes import outcome
from tests.unit.model.experiments.test_tally import EXPERIMENT

ALPHA = 0.05


def _tally(number, *, effect=1.0, errors=0.0, seed=1):
    rng = np.random.default_rng(seed)
    tally = Tally(EXPERIMENT, {}, {})
    for at in range(number):
        new = rng.random() < 0.5
        failed = new and rng.random() < errors
        tally.add_outcomes(
            [
                outcome(
                    str(at),
                    arm="new" if new else "old",
                    subject=at,
                    ttft_ms=rng.lognormal(5, 0.5) * (effect if new else 1.0),
                    status=Status.FAILED if failed else Status.COMPLETED,
                )
            ]
        )
    return tally


def _difference(arm: ArmResult) -> Interval:
    assert arm.difference is not None
    return arm.difference


def _words(tally, results):
    counts = tally.experiment.counts
    return verdict.of_all(
        results,
        requests=sum(counts.requests.values()),
        sample_ratio_p_value=sample_ratio.p_value(counts.evidence),
        alpha=ALPHA,
    )


def test_a_large_effect_is_found_and_said():
    tally = _tally(2000, effect=0.7)
    results = analyze(EXPERIMENT, tally.records, {}, alpha=ALPHA)
    by_metric = {result.metric: result for result in results}
    assert Metric.SCORE not in by_metric
    first, second = by_metric[Metric.TTFT].arms
    assert first.difference is None
    assert second.significant
    assert second.relative_difference == pytest.approx(-0.3, abs=0.06)
    assert second.effect_size == pytest.approx(-0.63, abs=0.15)
    assert _difference(second).lower < -0.3 * first.mean.mean < _difference(second).upper
    assert not by_metric[Metric.COMPLETION_TOKENS].arms[1].significant
    assert _words(tally, results) == (
        "new is better by time to first token; no other difference is shown."
    )
    said = verdict.of_metric(by_metric[Metric.TTFT])
    assert "less than old" in said
    assert "%" in said


def test_worse_errors_are_said_to_be_worse():
    tally = _tally(2000, effect=0.7, errors=0.1)
    results = analyze(EXPERIMENT, tally.records, {}, alpha=ALPHA)
    assert "better by time to first token and worse by errors" in _words(tally, results)


def test_no_effect_is_not_said_to_be_none():
    tally = _tally(1000)
    results = analyze(EXPERIMENT, tally.records, {}, alpha=ALPHA)
    assert not any(arm.significant for result in results for arm in result.arms)
    assert _words(tally, results).startswith("No difference is shown so far.")


def test_few_subjects_are_told():
    tally = _tally(40)
    [result] = analyze(EXPERIMENT, tally.records, {}, alpha=ALPHA, metrics=[Metric.TTFT])
    assert _difference(result.arms[1]).upper == math.inf
    assert "of the 100 subjects" in verdict.of_metric(result)


def test_a_wrong_share_of_subjects_comes_before_all_else():
    tally = Tally(EXPERIMENT, {}, {})
    tally.add_outcomes(
        [outcome(str(at), arm="old" if at % 4 else "new", subject=at) for at in range(2000)]
    )
    results = analyze(EXPERIMENT, tally.records, {}, alpha=ALPHA)
    assert _words(tally, results).startswith("Do not trust these figures")


def test_an_experiment_without_requests_says_so():
    assert analyze(EXPERIMENT, {}, {}, alpha=ALPHA) == []
    assert _words(Tally(EXPERIMENT, {}, {}), []) == "No request has been recorded yet."


def test_one_arm_without_values_is_no_comparison():
    tally = Tally(EXPERIMENT, {}, {})
    tally.add_outcomes([outcome(str(at), arm="new", subject=at) for at in range(300)])
    [result] = analyze(EXPERIMENT, tally.records, {}, alpha=ALPHA, metrics=[Metric.TTFT])
    assert [arm.arm for arm in result.arms] == ["new"]
    assert "no two arms" in verdict.of_metric(result)


def test_alpha_covers_all_metrics_and_arms_together():
    assert Levels(0.05, metrics=8, arms=3).difference == 0.05 / 16
    assert Levels(0.05, metrics=8, arms=3).mean == 0.05 / 24
    tally = _tally(2000)
    [alone] = analyze(EXPERIMENT, tally.records, {}, alpha=ALPHA, metrics=[Metric.TTFT])
    among = next(
        result
        for result in analyze(EXPERIMENT, tally.records, {}, alpha=ALPHA)
        if result.metric is Metric.TTFT
    )
    assert _difference(alone.arms[1]).upper < _difference(among.arms[1]).upper


def test_the_course_ends_where_the_present_is():
    tally = _tally(1500)
    record = tally.records[Metric.TTFT]
    [result] = analyze(
        EXPERIMENT,
        tally.records,
        {Metric.TTFT: [{}, record.summaries()]},
        alpha=ALPHA,
        metrics=[Metric.TTFT],
    )
    second = result.arms[1]
    assert list(second.course) == [(second.values, second.difference)]
