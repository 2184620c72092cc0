"""The first event of a generation, and the last ones of its outputs. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from mlxmesh_generation.domain.request import (
    Finished,
    FinishReason,
    Started,
    Timings,
    TotalUsage,
    device_ms_of,
)
from mlxmesh_generation.ensembles.steps import with_steps
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_generation.text.output import Output


def started(plan: Plan, *, engine_id: str, cached_tokens: int, created_ms: int) -> Started:
    return Started(
        request_id=plan.request.request_id,
        model=plan.version.name,
        model_version=plan.version.version,
        engine_id=engine_id,
        prompt_tokens=plan.prompt_tokens,
        cached_tokens=cached_tokens,
        seed=plan.seed,
        created_ms=created_ms,
        assignment=plan.assignment,
        adapter=plan.adapter,
    )


def finished(
    plan: Plan,
    index: int,
    reason: FinishReason,
    *,
    output: Output,
    cached_tokens: int,
    timings: Timings,
    waited_ms: float,
    resumptions: int,
) -> Finished:
    """A stop text overrides the engine's reason; the engine does not know stop texts."""
    prompt_tokens = plan.prompt_tokens
    token_ids, stop_text = output.token_ids, output.stop_text
    by_token = reason is FinishReason.STOP and stop_text is None
    if stop_text is not None:
        reason = FinishReason.STOP
    elif by_token and output.calls:
        reason = FinishReason.TOOL_CALLS
    return Finished(
        reason=reason,
        prompt_tokens=prompt_tokens,
        # The engine of a resumed generation counts the earlier output as part of the prompt.
        cached_tokens=min(cached_tokens, prompt_tokens),
        completion_tokens=len(token_ids),
        stop_text=stop_text,
        stop_token_id=token_ids[-1] if by_token and token_ids else None,
        timings=Timings(timings.queue_ms + waited_ms, timings.prefill_ms, timings.decode_ms),
        resumptions=resumptions,
        index=index,
        reasoning_tokens=output.reasoning_tokens,
        calls_valid=output.calls_valid,
    )


def with_total(plan: Plan, last: Finished, ends: Mapping[int, Finished]) -> Finished:
    """The last end, with the usage of all outputs by index, and its cost."""
    total = TotalUsage(
        completion_tokens=sum(end.completion_tokens for end in ends.values()),
        reasoning_tokens=sum(end.reasoning_tokens for end in ends.values()),
        # Outputs beside the first one find its prompt in the cache.
        cached_tokens=ends[0].cached_tokens,
        device_ms=device_ms_of(ends.values()),
    )
    cost = 0.0
    if plan.price is not None:
        cost = plan.price.cost(
            prompt_tokens=plan.prompt_tokens,
            cached_tokens=total.cached_tokens,
            completion_tokens=total.completion_tokens,
            device_ms=total.device_ms,
        )
    finished = replace(last, total=total, cost=cost)
    return with_steps(finished, plan.steps) if plan.steps else finished
