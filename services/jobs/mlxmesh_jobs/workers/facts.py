"""What a session's facts are in the database: JSON."""

import json
from dataclasses import asdict
from typing import Any

from mlxmesh_jobs.domain.jobs import Kind
from mlxmesh_jobs.workers.messages import BackEnd, WorkerFacts


def encoded(facts: WorkerFacts) -> bytes:
    """The stored form, without how many attempts run."""
    stored = {
        "worker_id": facts.worker_id,
        "host": facts.host,
        "slots": facts.slots,
        "kinds": sorted(facts.kinds),
        "connectors": {name: [*each] for name, each in facts.connectors.items()},
        "queues": sorted(facts.queues),
        "back_ends": [asdict(each) for each in facts.back_ends],
    }
    return json.dumps(stored, separators=(",", ":")).encode()


def decoded(stored: bytes, running: int) -> WorkerFacts:
    """The facts in a stored form."""
    found: dict[str, Any] = json.loads(stored)
    return WorkerFacts(
        worker_id=found["worker_id"],
        host=found["host"],
        slots=found["slots"],
        running=running,
        kinds=frozenset(map(Kind, found["kinds"])),
        connectors=found["connectors"],
        queues=frozenset(found["queues"]),
        back_ends=[BackEnd(**each) for each in found["back_ends"]],
    )
