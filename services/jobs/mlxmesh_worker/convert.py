"""Messages of the jobs service's contracts to what a worker works with, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxmesh.generation.v1.generation_pb2 import GenerateResponse
from mlxmesh.job.v1 import job_pb2, worker_pb2
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.caller import (
    CALLER_METADATA,
    MODELS_METADATA,
    MODELS_SEPARATOR,
    OWNER_METADATA,
    ROLE_METADATA,
    TEAM_METADATA,
    USER_METADATA,
)
from mlxmesh_shared.rpc.error_status import to_failure
from mlxmesh_worker.connectors.port import ConnectorType, Target
from mlxmesh_worker.work import Assignment, AttemptKey, Fault, Kind

MAX_UNIT_CHARACTERS, MAX_TEXT_CHARACTERS = 64, 1000
_MAX_COUNT = 2**63 - 1
_MS = 1000


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a worker is, as in Hello."""

    worker_id: str
    host: str
    slots: int
    kinds: Sequence[Kind]
    connectors: Mapping[str, Sequence[str]]
    """Their operations, by name."""
    queues: Sequence[str] = ()


def hello(identity: Identity, session: str, running: Iterable[AttemptKey]) -> worker_pb2.Hello:
    return worker_pb2.Hello(
        worker_id=identity.worker_id,
        session=session,
        host=identity.host,
        slots=identity.slots,
        kinds=[job_pb2.JobKind.ValueType(kind) for kind in identity.kinds],
        connectors=[
            worker_pb2.Connector(name=name, operations=operations)
            for name, operations in identity.connectors.items()
        ],
        running=[attempt_id(key) for key in running],
        queues=identity.queues,
    )


def attempt_id(key: AttemptKey) -> worker_pb2.AttemptId:
    return worker_pb2.AttemptId(job_id=key.job_id, attempt=key.attempt)


def attempt_key(message: worker_pb2.AttemptId) -> AttemptKey:
    return AttemptKey(message.job_id, message.attempt)


def assignment(message: worker_pb2.Assignment) -> Assignment:
    """Raises: ValueError for a kind that this version does not know."""
    return Assignment(
        key=attempt_key(message.id),
        kind=Kind(message.kind),
        timeout_s=message.timeout_ms / _MS if message.timeout_ms else None,
        message=message,
    )


def owner_metadata(owner: worker_pb2.JobOwner) -> tuple[tuple[str, str], ...]:
    """The metadata with which a gateway would forward a call of the owner."""
    of_user = (
        (TEAM_METADATA, owner.team),
        (MODELS_METADATA, MODELS_SEPARATOR.join(owner.models)),
    )
    return (
        (CALLER_METADATA, owner.share),
        (OWNER_METADATA, owner.owner),
        (ROLE_METADATA, "admin" if owner.is_admin else "client"),
        (USER_METADATA, owner.user),
        *(each for each in of_user if each[1]),
    )


def back_end(
    connector: ConnectorType, target: Target, *, healthy: bool, reason: str
) -> job_pb2.BackEnd:
    return job_pb2.BackEnd(
        connector=connector.name,
        name=target.name,
        address=target.address,
        healthy=healthy,
        reason=reason,
        operations=connector.operations,
    )


def progress(
    *, fraction: float, done: int, total: int, unit: str, text: str
) -> job_pb2.JobProgress:
    if not fraction and total:
        fraction = done / total
    return job_pb2.JobProgress(
        fraction=min(1.0, max(0.0, fraction)),
        done=_count(done),
        total=_count(total),
        unit=unit[:MAX_UNIT_CHARACTERS],
        text=text[:MAX_TEXT_CHARACTERS],
    )


def _count(value: int) -> int:
    """What a connector counted: one that counts wrongly must not break the stream of its worker."""
    return min(_MAX_COUNT, max(0, int(value)))


def progress_update(key: AttemptKey, message: job_pb2.JobProgress) -> worker_pb2.AttemptUpdate:
    return worker_pb2.AttemptUpdate(id=attempt_id(key), progress=message)


def outputs_update(
    key: AttemptKey,
    first: int,
    messages: Iterable[GenerateResponse],
    position: worker_pb2.StreamPosition,
) -> worker_pb2.AttemptUpdate:
    outputs = worker_pb2.Outputs(first=first, messages=messages, position=position)
    return worker_pb2.AttemptUpdate(id=attempt_id(key), outputs=outputs)


def state_update(key: AttemptKey, state_json: str) -> worker_pb2.AttemptUpdate:
    return worker_pb2.AttemptUpdate(id=attempt_id(key), back_end_state_json=state_json)


def result_update(key: AttemptKey, result: worker_pb2.AttemptResult) -> worker_pb2.AttemptUpdate:
    return worker_pb2.AttemptUpdate(id=attempt_id(key), result=result)


def failure_update(
    key: AttemptKey, error: MeshError, fault: Fault, used: Any
) -> worker_pb2.AttemptUpdate:
    failure = worker_pb2.AttemptFailure(
        failure=to_failure(error), fault=worker_pb2.Fault.ValueType(fault), used=used
    )
    return worker_pb2.AttemptUpdate(id=attempt_id(key), failure=failure)


def stopped_update(key: AttemptKey) -> worker_pb2.AttemptUpdate:
    return worker_pb2.AttemptUpdate(id=attempt_id(key), stopped=worker_pb2.Stopped())
