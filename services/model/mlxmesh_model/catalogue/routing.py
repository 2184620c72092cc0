"""How the requests of a model are loaded, split, repeated and priced. Pure."""

from dataclasses import dataclass, fields, replace
from enum import StrEnum

from mlxmesh_shared.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Price:
    """What using a model costs; 0 for nothing."""

    per_million_prompt_tokens: float = 0.0
    per_million_cached_tokens: float = 0.0
    per_million_completion_tokens: float = 0.0
    per_device_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Policy:
    """How a model is loaded, scaled and unloaded; None where a default of the mesh applies."""

    load_on_demand: bool | None = None
    load_timeout_s: int | None = None
    idle_unload_s: int | None = None
    pinned: bool | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    price: Price | None = None

    def updated(self, changes: "Policy") -> "Policy":
        """This policy with everything that `changes` sets.

        Raises: InvalidArgument when min_replicas would exceed max_replicas.
        """
        given = {field.name: getattr(changes, field.name) for field in fields(changes)}
        given = {name: value for name, value in given.items() if value is not None}
        policy = replace(self, **given)
        low, high = policy.min_replicas or 0, policy.max_replicas or 0
        if high and low > high:
            field = "min_replicas" if changes.min_replicas is not None else "max_replicas"
            raise InvalidArgument(
                f"min_replicas, {low}, exceeds max_replicas, {high}; set both, or one of them to 0",
                field=f"policy.{field}",
            )
        return policy

    def loads_on_demand(self, default: bool) -> bool:
        """Whether a request loads a version; `default` is that of the mesh."""
        return default if self.load_on_demand is None else self.load_on_demand


class Subject(StrEnum):
    """What a split assigns to one arm as a whole; the values are stored."""

    SESSION = "session"
    USER = "user"
    PRINCIPAL = "principal"
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Arm:
    """One version of a split, and its weight in percent."""

    name: str
    version: int
    weight: int


@dataclass(frozen=True, slots=True)
class Split:
    """The versions that an alias refers to, for a rollout or an experiment."""

    arms: tuple[Arm, ...]
    salt: str
    subject: Subject
    rollout_id: str = ""
    experiment_id: str = ""

    def __post_init__(self) -> None:
        weights = [arm.weight for arm in self.arms]
        if sum(weights) != 100 or min(weights) < 0:
            raise ValueError(f"weights must add up to 100: {weights}")

    @property
    def holder(self) -> str:
        """What sets the weights, for messages."""
        if self.rollout_id:
            return f"rollout {self.rollout_id}"
        return f"experiment {self.experiment_id}"


@dataclass(frozen=True, slots=True)
class Shadow:
    """Traffic of a version (0: of every other one) that is repeated at another version."""

    shadow_id: str
    from_version: int
    to_version: int
    percent: float
