"""Token counts, and why outputs ended. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_shared.errors import GenerationCancelled

_REASONS = {
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0

    def as_json(self) -> dict[str, object]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


def total(usages: Iterable[Usage]) -> Usage:
    """Of several generations."""
    every = list(usages)
    return Usage(
        sum(one.prompt_tokens for one in every),
        sum(one.cached_tokens for one in every),
        sum(one.completion_tokens for one in every),
        sum(one.reasoning_tokens for one in every),
    )


def usage(finished: pb.Finished) -> Usage:
    """Of all outputs, as the last end of an output has it."""
    counts = finished.total_usage if finished.HasField("total_usage") else finished.usage
    return Usage(
        counts.prompt_tokens,
        counts.cached_tokens,
        counts.completion_tokens,
        counts.reasoning_tokens,
    )


def finish_reason(finished: pb.Finished) -> str:
    """Raises: GenerationCancelled."""
    if finished.finish_reason == pb.FINISH_REASON_CANCELLED:
        raise GenerationCancelled("the generation was cancelled by another call")
    return _REASONS.get(finished.finish_reason, "stop")
