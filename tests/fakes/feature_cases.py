"""Pairwise cases of an engine's features: those of a whole engine, and those of one sequence.

Adding a value or a factor here is enough where `tests/integration/engine/test_pairs.py` knows what
it means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from allpairspy import AllPairs

from mlxmesh_engine.scheduling.request import Grammar, GrammarKind, Sampling

FORWARDS = {
    "own pass": ("llama", True),
    "mlx-lm's pass": ("llama", False),
    "windows": ("gemma3_text", False),
    "states": ("jamba", False),
}
CUT, NOT_CUT = ("own pass", "mlx-lm's pass"), ("windows", "states")
GRAMMARS = {
    "regex": Grammar(GrammarKind.REGEX, "(ab|cd){6,9}"),
    "schema": Grammar(
        GrammarKind.JSON_SCHEMA,
        '{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}}',
    ),
}
SAMPLINGS = {
    "greedy": Sampling(),
    "truncated": Sampling(temperature=0.9, top_k=40, min_p=0.02, seed=2**40 + 7),
    "penalties": Sampling(
        temperature=1.1,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        logit_bias={5: 3.0, 9: -100.0, 40: 2.0},
        seed=11,
    ),
}


@dataclass(frozen=True)
class EngineCase:
    """What holds for all sequences of an engine."""

    forward: str
    speculation: str
    prefixes: str
    kv: str

    def __str__(self) -> str:
        return (
            f"{self.forward}, {self.kv}, speculation {self.speculation}, prefixes {self.prefixes}"
        )


@dataclass(frozen=True)
class RowCase:
    """What holds for one sequence."""

    adapter: str
    constraint: str
    sampling: str
    logprobs: int
    resumed: int
    """How many tokens of its output an earlier engine has generated."""
    sharing: bool
    """Whether it follows a sequence with the same prompt."""
    background: bool
    isolated: bool


SPECULATIONS = ("off", "known", "ngram", "draft")
PREFIXES = ("none", "memory", "disk")
KV = ("full", "8bit")
"""Random weights change too much with 4 bits: mlx-lm's pass refuses that."""
ENGINE_VALUES = ((CUT, SPECULATIONS, PREFIXES, KV), (NOT_CUT, ("off",), PREFIXES, ("full",)))
"""Two sets, since allpairspy stops too early where a filter leaves cases out.

Caches that cannot be cut cannot forget rejected tokens, so there is no speculation; and models with
windows or states are refused with fewer bits.
"""
ENGINES = [EngineCase(*each) for values in ENGINE_VALUES for each in AllPairs(values)]
ROW_VALUES: Sequence[Sequence[Any]] = (
    ("none", "one", "two"),
    ("none", *GRAMMARS),
    tuple(SAMPLINGS),
    (0, 5),
    (0, 3),
    (False, True),
    (False, True),
    (False, True),
)
ROWS = {number: RowCase(*values) for number, values in enumerate(AllPairs(ROW_VALUES), 1)}
