"""The first and the last event of a generation. Pure."""

from collections.abc import Sequence

from mlxmesh_generation.domain.request import Finished, FinishReason, Started, Timings
from mlxmesh_generation.streams.plan import Plan


def started(plan: Plan, *, engine_id: str, cached_tokens: int, created_ms: int) -> Started:
    return Started(
        request_id=plan.request.request_id,
        model=plan.version.name,
        model_version=plan.version.version,
        engine_id=engine_id,
        prompt_tokens=len(plan.prompt_token_ids),
        cached_tokens=cached_tokens,
        seed=plan.seed,
        created_ms=created_ms,
    )


def finished(
    plan: Plan,
    reason: FinishReason,
    *,
    token_ids: Sequence[int],
    stop_text: str | None,
    cached_tokens: int,
    timings: Timings,
    waited_ms: float,
    resumptions: int,
) -> Finished:
    """A stop text overrides the engine's reason; the engine does not know stop texts."""
    prompt_tokens = len(plan.prompt_token_ids)
    by_token = reason is FinishReason.STOP and stop_text is None
    return Finished(
        reason=reason if stop_text is None else FinishReason.STOP,
        prompt_tokens=prompt_tokens,
        # The engine of a resumed generation counts the earlier output as part of the prompt.
        cached_tokens=min(cached_tokens, prompt_tokens),
        completion_tokens=len(token_ids),
        stop_text=stop_text,
        stop_token_id=token_ids[-1] if by_token and token_ids else None,
        timings=Timings(timings.queue_ms + waited_ms, timings.prefill_ms, timings.decode_ms),
        resumptions=resumptions,
    )
