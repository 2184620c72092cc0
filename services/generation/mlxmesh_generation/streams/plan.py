"""How often a generation may lose its engine. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_generation.catalogue import ModelVersion
from mlxmesh_generation.request import GenerationRequest

# A request that ends every engine it is given must not end them all, again and again.
MAX_WITHOUT_PROGRESS = 3
# From then on it shares no batch: the batch may have been the cause, and not one of its rows.
ISOLATED_AFTER = 2


class Losses:
    """Counts the losses of one generation."""

    def __init__(self, resumptions: int = 0, tokens: int = 0) -> None:
        self.resumptions = resumptions
        """How many times it went on elsewhere, other instances' included."""
        self._without_progress = 0
        self._tokens = tokens

    def may_go_on(self, tokens: int) -> bool:
        """Notes a loss after so many tokens; False when too many in a row brought none."""
        if tokens > self._tokens:
            self._without_progress = 0
        self._tokens = tokens
        self._without_progress += 1
        self.resumptions += 1
        return self._without_progress <= MAX_WITHOUT_PROGRESS

    @property
    def isolated(self) -> bool:
        """Whether it may be to blame: it lost engines in a row and got no token in between."""
        return self._without_progress >= ISOLATED_AFTER


@dataclass(frozen=True)
class Plan:
    """What one generation will do, on whatever engine."""

    request: GenerationRequest
    version: ModelVersion
    prompt_token_ids: Sequence[int]
    max_tokens: int
    seed: int
    received_s: float
    """When the request came, in time.monotonic()."""
    deadline_s: float | None
    """When it must have ended, likewise."""
