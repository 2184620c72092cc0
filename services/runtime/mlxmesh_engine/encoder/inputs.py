"""What is to be encoded, and what became of it. Pure."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlxmesh_shared.errors import MeshError


@dataclass(frozen=True, slots=True)
class TokenInput:
    """One text, or one pair of texts, as token ids."""

    token_ids: NDArray[np.int32]
    second_start: int = 0

    @property
    def length(self) -> int:
        return len(self.token_ids)


@dataclass(slots=True, eq=False)
class EncodeCall:
    """The inputs of one call and, as they are computed, their results."""

    inputs: tuple[TokenInput, ...]
    caller: str = ""
    background: bool = False
    submitted_s: float = 0.0
    deadline_s: float | None = None
    ended: bool = False
    """Whether nobody waits for it any more; set on the event loop, read on the MLX thread."""
    error: MeshError | None = None
    results: list[NDArray[np.float32] | None] = field(
        default_factory=list[NDArray[np.float32] | None]
    )
    """One an input: a vector (dimensions,) or a score (1,)."""
    missing: int = 0
    """How many results there are still to come."""

    def __post_init__(self) -> None:
        self.results = [None] * len(self.inputs)
        self.missing = len(self.inputs)

    @property
    def tokens(self) -> int:
        return sum(each.length for each in self.inputs)

    @property
    def max_total_tokens(self) -> int:
        """For the admission: what it may need of a KV cache."""
        return 0

    def put(self, index: int, result: NDArray[np.float32]) -> None:
        self.results[index] = result
        self.missing -= 1


Encoding = Literal["vector", "score"]
