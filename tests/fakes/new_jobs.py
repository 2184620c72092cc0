"""Jobs, news and sessions for tests of what stores them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from mlxmesh_jobs.domain.jobs import (
    AttemptId,
    Capability,
    Claim,
    Completed,
    Failed,
    FailureFacts,
    Kind,
    NewJob,
    News,
    Owner,
    Update,
    Used,
)
from mlxmesh_jobs.domain.ports import Applied, JobStore
from mlxmesh_jobs.domain.recovery import Fault

ALL = Capability(
    kinds=frozenset(Kind) - {Kind.CONNECTOR}, connectors=frozenset({"simulation_http"})
)
BROKEN = FailureFacts(code=14, reason="SERVICE_UNAVAILABLE", message="the back end is gone")
USED = Used(model="chat", model_version=3, prompt_tokens=5, completion_tokens=7)


def owner(principal: str = "user:ada") -> Owner:
    """Whoever submits."""
    return Owner(owner=f"#{principal}", principal=principal, share=principal, models=("chat*",))


def new_job(job_id: str, *, principal: str = "user:ada", **fields: Any) -> NewJob:
    """A job whose request is its id."""
    chosen: dict[str, Any] = {
        "kind": Kind.GENERATION,
        "queue": "generation",
        "owner": owner(principal),
        "request": job_id.encode(),
        "digest": hashlib.sha256(job_id.encode()).digest(),
        "summary": "generate with chat",
        **fields,
    }
    return NewJob(job_id=job_id, **chosen)


async def claim(store: JobStore, session: int, limit: int = 1, **fields: Any) -> Sequence[Claim]:
    """What a session gets."""
    capability = Capability(**fields) if fields else ALL
    return (await store.claim(session, capability, limit))[0]


async def claim_one(store: JobStore, session: int) -> AttemptId:
    """The one attempt that a session gets."""
    [claimed] = await claim(store, session)
    return claimed.id


async def tell(store: JobStore, session: int, id_: AttemptId, *news: News) -> Applied:
    """News of one attempt."""
    return await store.apply(session, [Update(id=id_, news=one) for one in news])


def failed(fault: Fault = Fault.TRANSIENT, **fields: Any) -> Failed:
    """An attempt failed."""
    return Failed(failure=BROKEN, fault=fault, **fields)


def completed(result: bytes = b"done", **fields: Any) -> Completed:
    """An attempt completed."""
    return Completed(result=result, **fields)
