"""What experiments compare, and the values of an outcome. Pure."""

from collections.abc import Iterator
from enum import StrEnum

from mlxmesh_model.outcomes.outcome import Outcome, Status


class Metric(StrEnum):
    """What is compared; the values are stored."""

    TTFT = "ttft"
    TOKENS_PER_SECOND = "tokens_per_second"
    ERROR = "error"
    COMPLETION_TOKENS = "completion_tokens"
    SCHEMA_VALID = "schema_valid"
    TOOLS_VALID = "tools_valid"
    COST = "cost"
    SCORE = "score"

    @property
    def is_share(self) -> bool:
        """Whether its values are 0 or 1."""
        return self in (Metric.ERROR, Metric.SCHEMA_VALID, Metric.TOOLS_VALID)

    @property
    def better(self) -> int:
        """1 if more is better, -1 if less is, 0 if neither is."""
        if self is Metric.COMPLETION_TOKENS:
            return 0
        return -1 if self in (Metric.TTFT, Metric.ERROR, Metric.COST) else 1


def values_of(outcome: Outcome) -> Iterator[tuple[Metric, float]]:
    """The values that an outcome has; the score is the caller's, and comes later."""
    yield Metric.ERROR, float(outcome.failed)
    if outcome.ttft_ms is not None:
        yield Metric.TTFT, outcome.ttft_ms
    if outcome.tpot_ms:
        yield Metric.TOKENS_PER_SECOND, 1000 / outcome.tpot_ms
    if outcome.schema_valid is not None:
        yield Metric.SCHEMA_VALID, float(outcome.schema_valid)
    if outcome.tools_valid is not None:
        yield Metric.TOOLS_VALID, float(outcome.tools_valid)
    if outcome.status is Status.COMPLETED:
        yield Metric.COMPLETION_TOKENS, float(outcome.completion_tokens)
        yield Metric.COST, outcome.cost
