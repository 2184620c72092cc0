"""Converts rows of experiments to domain objects, and domain objects to what is stored."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple

from mlxmesh_model.catalogue.routing import Arm, Subject
from mlxmesh_model.catalogue.rows import to_moment
from mlxmesh_model.experiments.analysis import Point
from mlxmesh_model.experiments.experiment import Counts, Experiment, Plan, State
from mlxmesh_model.experiments.metrics import Metric
from mlxmesh_model.experiments.moments import Cluster, Moments, Summary
from mlxmesh_model.experiments.tally import Clusters, Record
from mlxmesh_shared.sql.database import Row, Value

EXPERIMENT_COLUMNS = (
    "experiment_id",
    "number",
    "model",
    "alias",
    "content",
    "state",
    "reason",
    "counts",
    "created_at",
)


def experiment_values(experiment: Experiment) -> Sequence[Value]:
    """The values of EXPERIMENT_COLUMNS."""
    plan = experiment.plan
    content = {
        "subject": plan.subject.value,
        "arms": [asdict(arm) for arm in plan.arms],
        "description": plan.description,
    }
    return (
        experiment.experiment_id,
        experiment.number,
        plan.model,
        plan.alias,
        json.dumps(content),
        experiment.state.value,
        experiment.reason,
        counts_text(experiment.counts),
        experiment.created_at,
    )


def to_experiment(row: Row) -> Experiment:
    """An experiment from its row."""
    content, ended_at = json.loads(row["content"]), row["ended_at"]
    return Experiment(
        experiment_id=row["experiment_id"],
        plan=Plan(
            model=row["model"],
            alias=row["alias"],
            subject=Subject(content["subject"]),
            arms=tuple(Arm(**arm) for arm in content["arms"]),
            description=content["description"],
        ),
        state=State(row["state"]),
        created_at=to_moment(row["created_at"]),
        number=row["number"],
        ended_at=None if ended_at is None else to_moment(ended_at),
        reason=row["reason"],
        counts=Counts(**json.loads(row["counts"])),
    )


def counts_text(counts: Counts) -> str:
    """Counts as they are stored: JSON."""
    return json.dumps(asdict(counts))


def record_text(record: Record) -> str:
    """The sums of a metric as they are stored: JSON."""
    arms = {arm: moments.values() for arm, moments in record.arms.items()}
    return json.dumps({"origin": record.origin, "arms": arms, "checkpoint": record.checkpoint})


def to_records(found: Iterable[Row]) -> dict[Metric, Record]:
    """The sums of an experiment by metric."""
    return {Metric(row["metric"]): _to_record(row["content"]) for row in found}


def _to_record(text: str) -> Record:
    stored = json.loads(text)
    arms = {arm: Moments.of(values) for arm, values in stored["arms"].items()}
    return Record(stored["origin"], arms, stored["checkpoint"])


def point_text(point: Point) -> str:
    """The arms at one time as they are stored: JSON."""
    return json.dumps({arm: astuple(summary) for arm, summary in point.items()})


def to_courses(found: Iterable[Row]) -> dict[Metric, list[Point]]:
    """The arms at earlier times by metric, oldest first as the rows are."""
    courses: dict[Metric, list[Point]] = {}
    for row in found:
        stored = json.loads(row["content"])
        point = {arm: Summary(*values) for arm, values in stored.items()}
        courses.setdefault(Metric(row["metric"]), []).append(point)
    return courses


def clusters_text(clusters: Mapping[Metric, Cluster]) -> str:
    """The values of a subject as they are stored: JSON."""
    return json.dumps({metric: astuple(cluster) for metric, cluster in clusters.items()})


def to_clusters(text: str) -> Clusters:
    """The values of a subject from their stored form."""
    return {Metric(metric): Cluster(*values) for metric, values in json.loads(text).items()}
