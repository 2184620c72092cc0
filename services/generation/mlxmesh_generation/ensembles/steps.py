"""The steps of an ensemble, and the end of its stream, which reports them. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from mlxmesh_generation.domain.ensemble import Step
from mlxmesh_generation.domain.request import Finished, TotalUsage


def with_usage(step: Step, finished: Finished) -> Step:
    """A step that ended; finished: the last end of its outputs."""
    total = finished.total
    assert total is not None
    return replace(
        step,
        prompt_tokens=finished.prompt_tokens,
        cached_tokens=total.cached_tokens,
        completion_tokens=total.completion_tokens,
        reasoning_tokens=total.reasoning_tokens,
        device_ms=total.device_ms,
        cost=finished.cost,
    )


def with_steps(finished: Finished, steps: Sequence[Step]) -> Finished:
    """The end of an ensemble's stream: that of the chosen answer, with the usage of all steps."""
    every = tuple(with_usage(step, finished) if step.chosen else step for step in steps)
    total = TotalUsage(
        completion_tokens=sum(step.completion_tokens for step in every),
        reasoning_tokens=sum(step.reasoning_tokens for step in every),
        cached_tokens=sum(step.cached_tokens for step in every),
        prompt_tokens=sum(step.prompt_tokens for step in every),
        device_ms=sum(step.device_ms for step in every),
    )
    return replace(finished, total=total, cost=sum(step.cost for step in every), steps=every)
