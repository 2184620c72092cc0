"""Which version answers a request: splits of aliases, shadows and prices. Pure."""

from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b

_HASH_BYTES = 16
_POSITION_BYTES = 8
_MILLION = 1_000_000
FLEX_PRICE = 0.5
"""Of the price of the standard tier."""


class Subject(Enum):
    """What a split assigns to one arm as a whole."""

    SESSION = "session"
    USER = "user"
    PRINCIPAL = "principal"
    REQUEST = "request"


@dataclass(frozen=True)
class Arm:
    """One version of a split; its weight is in percent."""

    name: str
    version: int
    weight: int


@dataclass(frozen=True)
class Split:
    """The versions of an alias, each for a part of the subjects; the weights add up to 100."""

    arms: tuple[Arm, ...]
    salt: str
    subject: Subject
    rollout_id: str = ""
    experiment_id: str = ""


@dataclass(frozen=True)
class Shadow:
    """Traffic of a version (0: of every other one) that is repeated at another version."""

    shadow_id: str
    from_version: int
    to_version: int
    percent: float

    def repeats(self, version: int) -> bool:
        """Whether it is for requests that this version answers."""
        return version != self.to_version and self.from_version in (0, version)


@dataclass(frozen=True)
class Price:
    """What using a model costs."""

    per_million_prompt_tokens: float = 0.0
    per_million_cached_tokens: float = 0.0
    per_million_completion_tokens: float = 0.0
    per_device_second: float = 0.0

    def cost(
        self, *, prompt_tokens: int, cached_tokens: int, completion_tokens: int, device_ms: float
    ) -> float:
        """Of one generation; prompt_tokens include the cached ones."""
        by_tokens = (
            (prompt_tokens - cached_tokens) * self.per_million_prompt_tokens
            + cached_tokens * self.per_million_cached_tokens
            + completion_tokens * self.per_million_completion_tokens
        )
        return by_tokens / _MILLION + device_ms / 1000 * self.per_device_second

    def of_flex(self) -> "Price":
        """What it costs in the flex tier."""
        return Price(
            self.per_million_prompt_tokens * FLEX_PRICE,
            self.per_million_cached_tokens * FLEX_PRICE,
            self.per_million_completion_tokens * FLEX_PRICE,
            self.per_device_second * FLEX_PRICE,
        )


@dataclass(frozen=True)
class Asker:
    """What a request says about who asks; empty where it says nothing."""

    request_id: str
    principal: str
    session_id: str = ""
    user: str = ""


@dataclass(frozen=True)
class Assignment:
    """The arm that a request belongs to; empty without a split."""

    arm: str = ""
    rollout_id: str = ""
    experiment_id: str = ""
    subject_hash: bytes = b""


UNASSIGNED = Assignment()


def subject_of(subject: Subject, asker: Asker) -> str:
    """The name of what is assigned; empty if the request does not say.

    Sessions and users belong to a principal, so that two principals may use the same names.
    """
    if subject is Subject.PRINCIPAL:
        return asker.principal
    if subject is Subject.REQUEST and not asker.session_id:
        return asker.request_id
    name = asker.user if subject is Subject.USER else asker.session_id
    return f"{asker.principal}\0{name}" if name else ""


def assign(split: Split, asker: Asker) -> tuple[Arm, Assignment] | None:
    """The arm of a request, the same in every process; None if it has no subject.

    A subject's place is fixed; an arm that comes first keeps its subjects while its weight grows.
    """
    subject = subject_of(split.subject, asker)
    if not subject:
        return None
    digest = blake2b(subject.encode(), key=split.salt.encode()[:64], digest_size=_HASH_BYTES)
    hashed = digest.digest()
    place = int.from_bytes(hashed[:_POSITION_BYTES]) * 100
    reached = 0
    for arm in split.arms:
        reached += arm.weight
        if place < reached << (8 * _POSITION_BYTES):
            return arm, Assignment(arm.name, split.rollout_id, split.experiment_id, hashed)
    return None
