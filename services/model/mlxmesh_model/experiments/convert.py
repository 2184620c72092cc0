"""Experiment messages to domain objects, and back."""

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1 import experiment_pb2 as pb
from mlxmesh.model.v1 import split_pb2
from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_model.catalogue.models import DEFAULT_ALIAS
from mlxmesh_model.catalogue.routing import Arm, Subject
from mlxmesh_model.experiments import sample_ratio, verdict
from mlxmesh_model.experiments.analysis import ArmResult, MetricResult
from mlxmesh_model.experiments.experiment import Experiment, Plan, State
from mlxmesh_model.experiments.metrics import Metric
from mlxmesh_model.experiments.sequences import Interval
from mlxmesh_shared.errors import InvalidArgument

_SUBJECTS = {
    split_pb2.SPLIT_SUBJECT_UNSPECIFIED: Subject.SESSION,
    split_pb2.SPLIT_SUBJECT_SESSION: Subject.SESSION,
    split_pb2.SPLIT_SUBJECT_USER: Subject.USER,
    split_pb2.SPLIT_SUBJECT_PRINCIPAL: Subject.PRINCIPAL,
    split_pb2.SPLIT_SUBJECT_REQUEST: Subject.REQUEST,
}
_TO_SUBJECT = {
    Subject.SESSION: split_pb2.SPLIT_SUBJECT_SESSION,
    Subject.USER: split_pb2.SPLIT_SUBJECT_USER,
    Subject.PRINCIPAL: split_pb2.SPLIT_SUBJECT_PRINCIPAL,
    Subject.REQUEST: split_pb2.SPLIT_SUBJECT_REQUEST,
}
_STATES = {
    State.PREPARING: pb.EXPERIMENT_STATE_PREPARING,
    State.RUNNING: pb.EXPERIMENT_STATE_RUNNING,
    State.STOPPED: pb.EXPERIMENT_STATE_STOPPED,
}
_METRICS = {
    pb.EXPERIMENT_METRIC_TTFT: Metric.TTFT,
    pb.EXPERIMENT_METRIC_TOKENS_PER_SECOND: Metric.TOKENS_PER_SECOND,
    pb.EXPERIMENT_METRIC_ERROR: Metric.ERROR,
    pb.EXPERIMENT_METRIC_COMPLETION_TOKENS: Metric.COMPLETION_TOKENS,
    pb.EXPERIMENT_METRIC_SCHEMA_VALID: Metric.SCHEMA_VALID,
    pb.EXPERIMENT_METRIC_TOOLS_VALID: Metric.TOOLS_VALID,
    pb.EXPERIMENT_METRIC_COST: Metric.COST,
    pb.EXPERIMENT_METRIC_SCORE: Metric.SCORE,
}
_TO_METRIC = {metric: number for number, metric in _METRICS.items()}


# Requests.


def to_plan(request: pb.StartExperimentRequest) -> Plan:
    """Raises: InvalidArgument for an unknown subject."""
    if request.subject not in _SUBJECTS:
        raise InvalidArgument(f"there is no subject {request.subject}", field="subject")
    return Plan(
        model=request.name,
        alias=request.alias or DEFAULT_ALIAS,
        subject=_SUBJECTS[request.subject],
        arms=tuple(Arm(arm.arm, arm.version, arm.weight) for arm in request.arms),
        description=request.description,
    )


def to_metrics(numbers: Iterable[int]) -> list[Metric]:
    """Raises: InvalidArgument for an unknown metric."""
    found: list[Metric] = []
    for at, number in enumerate(numbers):
        if number not in _METRICS:
            raise InvalidArgument(f"there is no metric {number}", field=f"metrics[{at}]")
        found.append(_METRICS[pb.ExperimentMetric.ValueType(number)])
    return found


# Responses.


def to_experiment(experiment: Experiment) -> pb.Experiment:
    """An experiment."""
    plan, ended_at = experiment.plan, experiment.ended_at
    message = pb.Experiment(
        experiment_id=experiment.experiment_id,
        model=plan.model,
        alias=plan.alias,
        subject=_TO_SUBJECT[plan.subject],
        arms=[
            split_pb2.SplitArm(arm=arm.name, version=arm.version, weight=arm.weight)
            for arm in plan.arms
        ],
        state=_STATES[experiment.state],
        description=plan.description,
        requests=sum(experiment.counts.requests.values()),
        reason=experiment.reason,
    )
    message.create_time.FromDatetime(experiment.created_at)
    if ended_at is not None:
        end_time = Timestamp()
        end_time.FromDatetime(ended_at)
        message.end_time.CopyFrom(end_time)
    return message


def to_analysis(
    experiment: Experiment, results: Sequence[MetricResult], alpha: float
) -> pb.AnalyzeExperimentResponse:
    """The analysis, in figures and in words."""
    counts = experiment.counts
    p_value = sample_ratio.p_value(counts.evidence)
    return pb.AnalyzeExperimentResponse(
        experiment=to_experiment(experiment),
        metrics=[_metric(result) for result in results],
        sample_ratio_p_value=p_value,
        requests={arm.name: counts.requests.get(arm.name, 0) for arm in experiment.plan.arms},
        verdict=verdict.of_all(
            results,
            requests=sum(counts.requests.values()),
            sample_ratio_p_value=p_value,
            alpha=alpha,
        ),
        alpha=alpha,
    )


def _metric(result: MetricResult) -> pb.MetricAnalysis:
    return pb.MetricAnalysis(
        metric=_TO_METRIC[result.metric],
        arms=[_arm(arm) for arm in result.arms],
        verdict=verdict.of_metric(result),
    )


def _arm(arm: ArmResult) -> pb.ArmAnalysis:
    return pb.ArmAnalysis(
        arm=arm.arm,
        values=arm.values,
        mean=_estimate(arm.mean),
        difference=None if arm.difference is None else _estimate(arm.difference),
        relative_difference=arm.relative_difference,
        effect_size=arm.effect_size,
        significant=arm.significant,
        course=[
            pb.EstimateAt(values=values, estimate=_estimate(interval))
            for values, interval in arm.course
        ],
    )


def _estimate(interval: Interval) -> pb.Estimate:
    return pb.Estimate(mean=interval.mean, lower=interval.lower, upper=interval.upper)


# Events.


def to_event(before: Experiment | None, after: Experiment) -> Message | None:
    """The event of a change of state; None if there is nothing to report."""
    names = {
        "experiment_id": after.experiment_id,
        "model": after.plan.model,
        "alias": after.plan.alias,
    }
    if before is None:
        return events.ExperimentStarted(**names)
    if after.state is State.RUNNING and before.state is State.PREPARING:
        return events.ExperimentRunning(**names)
    if after.state is State.STOPPED and before.state is not State.STOPPED:
        requests = sum(after.counts.requests.values())
        return events.ExperimentStopped(**names, requests=requests, reason=after.reason)
    return None
