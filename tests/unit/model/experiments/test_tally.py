"""What is counted of which outcome."""

from datetime import UTC, datetime

import pytest

from mlxmesh_model.catalogue.routing import Arm, Subject
from mlxmesh_model.experiments.experiment import Experiment, Plan, State, check_plan
from mlxmesh_model.experiments.metrics import Metric, values_of
from mlxmesh_model.experiments.moments import Cluster
from mlxmesh_model.experiments.tally import FIRST_CHECKPOINT, Record, Tally
from mlxmesh_model.outcomes.outcome import Status
from mlxmesh_shared.errors import InvalidArgument
from tests.fakes.outcomes import outcome

PLAN = Plan("pocket", "default", Subject.SESSION, (Arm("old", 1, 50), Arm("new", 2, 50)))
EXPERIMENT = Experiment("e-1", PLAN, State.RUNNING, datetime(2026, 3, 1, tzinfo=UTC))


def test_a_completed_request_has_every_value_that_was_measured():
    assert dict(values_of(outcome(schema_valid=True, tools_valid=False))) == {
        Metric.ERROR: 0,
        Metric.TTFT: 100,
        Metric.TOKENS_PER_SECOND: 100,
        Metric.SCHEMA_VALID: 1,
        Metric.TOOLS_VALID: 0,
        Metric.COMPLETION_TOKENS: 20,
        Metric.COST: 0.5,
    }


@pytest.mark.parametrize(
    ("status", "error"), [(Status.FAILED, 1), (Status.REFUSED, 0), (Status.CANCELLED, 0)]
)
def test_a_request_that_did_not_complete_has_no_length_and_no_cost(status, error):
    found = dict(values_of(outcome(status=status, ttft_ms=None, tpot_ms=None)))
    assert found == {Metric.ERROR: error}


def test_no_time_per_token_gives_no_rate():
    assert Metric.TOKENS_PER_SECOND not in dict(values_of(outcome(tpot_ms=0.0)))


def test_requests_and_subjects_are_counted_by_arm():
    tally = Tally(EXPERIMENT, {}, {})
    tally.add_outcomes(
        [
            outcome("a", arm="old", subject=1),
            outcome("b", arm="old", subject=1, ttft_ms=300.0),
            outcome("c", arm="new", subject=2),
            outcome("d", arm="new"),
            outcome("e", arm="gone", subject=3),
        ]
    )
    counts = tally.experiment.counts
    assert counts.requests == {"old": 2, "new": 2}
    assert counts.subjects == {"old": 1, "new": 2}
    summary = tally.records[Metric.TTFT].summaries()["old"]
    assert (summary.count, summary.subjects, summary.mean) == (2, 1, 200)


def test_a_later_batch_continues_an_earlier_one():
    every = [outcome(str(at), arm="old", subject=at % 7, ttft_ms=at * 3.0) for at in range(100)]
    once = Tally(EXPERIMENT, {}, {})
    once.add_outcomes(every)
    first = Tally(EXPERIMENT, {}, {})
    first.add_outcomes(every[:31])
    second = Tally(first.experiment, first.records, first.subjects)
    second.add_outcomes(every[31:])
    assert second.records == once.records
    assert second.experiment.counts.requests == once.experiment.counts.requests
    assert second.experiment.counts.subjects == once.experiment.counts.subjects


def test_a_course_has_at_most_200_points_for_a_billion_values():
    record, points = Record(0.0), 0
    added = record.add("old", 1.0, Cluster())[0]
    moments = added.arms["old"]
    while record.checkpoint < 10**9:
        grown = type(moments)(count=record.checkpoint)
        record = Record(0.0, {"old": grown}, record.checkpoint).passed()
        points += 1
    assert record.checkpoint > FIRST_CHECKPOINT
    assert points <= 200


@pytest.mark.parametrize(
    ("arms", "subject", "field"),
    [
        ([("a", 50), ("b", 49)], Subject.SESSION, "arms"),
        ([("a", 50), ("a", 50)], Subject.SESSION, "arms[1].arm"),
        ([("a", 100), ("b", 0)], Subject.SESSION, "arms[1].weight"),
        ([("a", 50), ("b", 50)], Subject.REQUEST, "subject"),
    ],
)
def test_an_illegal_plan_names_its_field(arms, subject, field):
    named = tuple(Arm(name, 1, weight) for name, weight in arms)
    with pytest.raises(InvalidArgument) as error:
        check_plan(Plan("pocket", "default", subject, named))
    assert error.value.field == field
