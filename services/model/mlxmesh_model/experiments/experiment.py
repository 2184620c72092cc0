"""An experiment and its states. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from mlxmesh_model.catalogue.models import Model
from mlxmesh_model.catalogue.routing import Arm, Split, Subject
from mlxmesh_model.experiments import sample_ratio
from mlxmesh_shared.errors import InvalidArgument


class State(StrEnum):
    """The state of an experiment; the values are stored."""

    PREPARING = "preparing"
    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared, and on whose requests."""

    model: str
    alias: str
    subject: Subject
    arms: tuple[Arm, ...]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests and subjects by arm, and the largest evidence so far against the weights."""

    requests: Mapping[str, int] = field(default_factory=dict[str, int])
    subjects: Mapping[str, int] = field(default_factory=dict[str, int])
    evidence: float = 0.0

    def tested(self, arms: tuple[Arm, ...]) -> "Counts":
        """With the evidence of now."""
        subjects = [self.subjects.get(arm.name, 0) for arm in arms]
        found = sample_ratio.evidence(subjects, [arm.weight for arm in arms])
        return replace(self, evidence=max(self.evidence, found))


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment."""

    experiment_id: str
    plan: Plan
    state: State
    created_at: datetime
    number: int = 0
    """Grows with each new experiment."""
    ended_at: datetime | None = None
    reason: str = ""
    """Why it waits or was ended by itself."""
    counts: Counts = Counts()

    @property
    def split(self) -> Split:
        """What its alias refers to while it runs; its id makes its assignments independent."""
        plan = self.plan
        return Split(plan.arms, self.experiment_id, plan.subject, experiment_id=self.experiment_id)

    @property
    def control(self) -> Arm:
        """What the other arms are compared with."""
        return self.plan.arms[0]


def check_plan(plan: Plan) -> None:
    """Raises: InvalidArgument."""
    names = [arm.name for arm in plan.arms]
    for at, arm in enumerate(plan.arms):
        if arm.weight < 1:
            raise InvalidArgument(
                "the weight of an arm must be at least 1; leave the arm out instead",
                field=f"arms[{at}].weight",
            )
        if names.index(arm.name) != at:
            raise InvalidArgument(f"two arms are named {arm.name}", field=f"arms[{at}].arm")
    total = sum(arm.weight for arm in plan.arms)
    if total != 100:
        raise InvalidArgument(f"the weights add up to {total}, not to 100", field="arms")
    if plan.subject is Subject.REQUEST:
        raise InvalidArgument(
            "requests of one caller would get different arms; assign sessions, users or principals",
            field="subject",
        )


def waits_for(plan: Plan, model: Model) -> str:
    """Why its versions are not ready, for the caller; empty if they are.

    Raises: ModelNotFound for a version that does not exist.
    """
    for arm in plan.arms:
        version = model.version(arm.version)
        if version.ready_replicas:
            continue
        if not version.desired_replicas:
            return f"{version.label} was unloaded; load it, or stop the experiment"
        why = f": {version.failure.message}" if version.failure else ""
        return f"{version.label} is being loaded{why}"
    return ""
