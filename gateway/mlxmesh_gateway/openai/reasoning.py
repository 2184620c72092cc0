"""Settings of reasoning in the contract's messages. Pure."""

from __future__ import annotations

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.openai.schema import Effort, ReasoningFields

_EFFORTS = {
    "minimal": pb.REASONING_EFFORT_MINIMAL,
    "low": pb.REASONING_EFFORT_LOW,
    "medium": pb.REASONING_EFFORT_MEDIUM,
    "high": pb.REASONING_EFFORT_HIGH,
}


def set_reasoning(generation: pb.GenerateRequest, asked: ReasoningFields) -> None:
    """Sets what was asked for; the rest stays as it is."""
    if asked.effort is not None:
        set_effort(generation, asked.effort)
    if asked.enabled is not None:
        generation.reasoning.enabled = asked.enabled
    if asked.budget_tokens is not None:
        generation.reasoning.budget_tokens = asked.budget_tokens


def set_effort(generation: pb.GenerateRequest, effort: Effort) -> None:
    """The effort none switches reasoning off."""
    if effort == "none":
        generation.reasoning.enabled = False
    else:
        generation.reasoning.effort = _EFFORTS[effort]
