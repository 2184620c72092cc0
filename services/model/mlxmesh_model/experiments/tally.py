"""Adds values to the sums of an experiment. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from mlxmesh_model.experiments.experiment import Experiment
from mlxmesh_model.experiments.metrics import Metric, values_of
from mlxmesh_model.experiments.moments import Cluster, Moments, Summary
from mlxmesh_model.outcomes.outcome import Outcome

FIRST_CHECKPOINT = 50
_GROWTH = 1.08


@dataclass(frozen=True, slots=True)
class Record:
    """The sums of a metric by arm; values are counted from the origin, the first one."""

    origin: float
    arms: Mapping[str, Moments] = field(default_factory=dict[str, Moments])
    checkpoint: int = FIRST_CHECKPOINT
    """The number of values at which the course gets its next point."""

    @property
    def count(self) -> int:
        return sum(moments.count for moments in self.arms.values())

    def add(self, arm: str, value: float, cluster: Cluster) -> tuple["Record", Cluster]:
        """With another value of a subject, whose earlier values are `cluster`."""
        moments, grown = self.arms.get(arm, Moments()).add(value - self.origin, cluster)
        return replace(self, arms={**self.arms, arm: moments}), grown

    def passed(self) -> "Record":
        """With a later checkpoint: the distances grow, so that a course stays short."""
        count = self.count
        after = max(count + FIRST_CHECKPOINT, round(count * _GROWTH))
        return replace(self, checkpoint=after)

    def summaries(self) -> dict[str, Summary]:
        """Of the arms that have values."""
        return {arm: moments.summary(self.origin) for arm, moments in self.arms.items()}


Clusters = dict[Metric, Cluster]
"""The values of one subject by metric."""


class Tally:
    """The sums of one experiment, and the subjects whose requests are being added."""

    def __init__(
        self,
        experiment: Experiment,
        records: Mapping[Metric, Record],
        subjects: Mapping[str, Clusters],
    ) -> None:
        """`subjects`: those that were seen before, of the ones that may be added."""
        self.records = dict(records)
        self.subjects = {name: dict(clusters) for name, clusters in subjects.items()}
        self.changed: set[Metric] = set()
        self._experiment = experiment
        self._known = frozenset(arm.name for arm in experiment.plan.arms)
        self._requests = Counter(experiment.counts.requests)
        self._arms_subjects = Counter(experiment.counts.subjects)

    @property
    def experiment(self) -> Experiment:
        """The experiment with its counts of now."""
        counts = replace(
            self._experiment.counts,
            requests=dict(self._requests),
            subjects=dict(self._arms_subjects),
        )
        return replace(self._experiment, counts=counts.tested(self._experiment.plan.arms))

    def add_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        """Adds requests; those of unknown arms are left out."""
        for outcome in outcomes:
            if outcome.arm not in self._known:
                continue
            subject = subject_name(outcome)
            self._requests[outcome.arm] += 1
            if subject not in self.subjects:
                self.subjects[subject] = {}
                self._arms_subjects[outcome.arm] += 1
            for metric, value in values_of(outcome):
                self.add(outcome.arm, subject, metric, value)

    def add(self, arm: str, subject: str, metric: Metric, value: float) -> None:
        """Adds one value."""
        clusters = self.subjects.setdefault(subject, {})
        record = self.records.get(metric, Record(origin=value))
        added, clusters[metric] = record.add(arm, value, clusters.get(metric, Cluster()))
        self.records[metric] = added
        self.changed.add(metric)

    def due(self) -> list[Metric]:
        """The metrics whose course gets a point now."""
        return [
            metric
            for metric in sorted(self.changed)
            if self.records[metric].count >= self.records[metric].checkpoint
        ]


def subject_name(outcome: Outcome) -> str:
    """The subject of a request; a request without one is its own."""
    return outcome.subject_hash.hex() or f"{outcome.principal} {outcome.request_id}"
