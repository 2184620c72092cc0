"""Makes the outcome of a generation from its plan and its end. Pure."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from mlxmesh_generation.domain.outcome import Outcome, Status
from mlxmesh_generation.domain.request import Finished, FinishReason, device_ms_of
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_shared.errors import Cancelled, MeshError

Record = Callable[[Outcome], None]
"""Called once for each generation that has ended."""


def discard_outcome(outcome: Outcome) -> None:
    """A Record that keeps nothing."""


# An error of the request would occur at any version; the others count against the one that had it.
_OF_REQUEST = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)


@dataclass(frozen=True)
class Times:
    """When a generation had its first token and its end, in time.monotonic()."""

    first_token_s: float | None
    end_s: float


def of_finished(plan: Plan, ends: Sequence[Finished], times: Times) -> Outcome:
    """The outcome of a generation that ended without an error."""
    completion = [end.completion_tokens for end in ends]
    cancelled = any(end.reason is FinishReason.CANCELLED for end in ends)
    constrained = plan.request.constraint is not None and not cancelled
    # A constraint is on the text of an output, which one that calls tools does not have.
    texts = [end for end in ends if end.reason is not FinishReason.TOOL_CALLS]
    called = [end.calls_valid for end in ends if end.calls_valid is not None]
    return _outcome(
        plan,
        Status.CANCELLED if cancelled else Status.COMPLETED,
        times,
        completion,
        cached_tokens=ends[0].cached_tokens,
        device_ms=device_ms_of(ends),
        schema_valid=all(end.reason is FinishReason.STOP and end.stop_text is None for end in texts)
        if constrained and texts
        else None,
        tools_valid=all(called) if called and not cancelled else None,
    )


def of_failed(plan: Plan, error: MeshError, completion: Sequence[int], times: Times) -> Outcome:
    """The outcome of a generation that ended with an error; `completion`: tokens by output."""
    return _outcome(plan, status_of(error), times, completion, error_reason=error.reason)


def status_of(error: MeshError) -> Status:
    """How a request ended that ended with an error."""
    if isinstance(error, Cancelled):
        return Status.CANCELLED
    return Status.REFUSED if error.code in _OF_REQUEST else Status.FAILED


def _outcome(
    plan: Plan,
    status: Status,
    times: Times,
    completion: Sequence[int],
    *,
    error_reason: str = "",
    cached_tokens: int = 0,
    device_ms: float = 0.0,
    schema_valid: bool | None = None,
    tools_valid: bool | None = None,
) -> Outcome:
    prompt_tokens = plan.prompt_tokens
    # Where it only continues an answer, its times are not those of the whole generation. Those of
    # the flex tier say how busy the mesh is, and nothing about the version.
    first_s = None if plan.resumed or plan.request.flex else times.first_token_s
    longest = max(completion, default=0)
    return Outcome(
        request_id=plan.request.request_id,
        principal=plan.request.principal,
        model=plan.version.name,
        version=plan.version.version,
        status=status,
        end_ms=time.time_ns() // 1_000_000,
        assignment=plan.assignment,
        error_reason=error_reason,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        completion_tokens=sum(completion),
        ttft_ms=None if first_s is None else (first_s - plan.received_s) * 1000,
        tpot_ms=None
        if first_s is None or longest < 2
        else (times.end_s - first_s) * 1000 / (longest - 1),
        duration_ms=(times.end_s - plan.received_s) * 1000,
        device_ms=device_ms,
        schema_valid=schema_valid,
        tools_valid=tools_valid,
        cost=plan.price.cost(
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            completion_tokens=sum(completion),
            device_ms=device_ms,
        )
        # One that no engine has answered costs nothing.
        if plan.price is not None and any(completion)
        else 0.0,
    )
