"""Ensembles: recipes that make one answer of several models' answers, and their steps."""

from dataclasses import dataclass

from mlxmesh_shared.reference import ModelReference


@dataclass(frozen=True)
class Fallback:
    """The first model that can answer does."""

    models: tuple[ModelReference, ...]
    first_token_timeout_s: float | None = None


@dataclass(frozen=True)
class Cascade:
    """The first model whose answer is confident answers, else the last one."""

    models: tuple[ModelReference, ...]
    min_mean_logprob: float | None = None
    require_valid: bool = True
    json_schema: str = ""


@dataclass(frozen=True)
class Vote:
    """The answer that most of several agree on."""

    models: tuple[ModelReference, ...]
    samples: int = 1
    answer_pattern: str = ""


@dataclass(frozen=True)
class BestOf:
    """The answer of several that a judge scores highest."""

    models: tuple[ModelReference, ...]
    judge: ModelReference
    samples: int = 1


Recipe = Fallback | Cascade | Vote | BestOf


@dataclass(frozen=True)
class Step:
    """One answer, or one score of an answer, that an ensemble asked for."""

    model: str
    version: int = 0
    """0 if none could be asked."""
    chosen: bool = False
    reason: str = ""
    """Why it was not chosen, or what its error was."""
    score: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    device_ms: float = 0.0
    cost: float = 0.0
