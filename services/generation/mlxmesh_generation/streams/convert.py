"""Converts what happens to a generation to the mesh's domain events."""

from mlxmesh.telemetry.v1.events_pb2 import GenerationResumed
from mlxmesh_generation.streams.plan import Plan


def generation_resumed(
    plan: Plan, *, from_engine: str, to_engine: str, completion_tokens: int, resumptions: int
) -> GenerationResumed:
    return GenerationResumed(
        request_id=plan.request.answer_id,
        model=plan.version.name,
        model_version=plan.version.version,
        from_engine=from_engine,
        to_engine=to_engine,
        completion_tokens=completion_tokens,
        resumptions=resumptions,
        arm=plan.assignment.arm,
    )
