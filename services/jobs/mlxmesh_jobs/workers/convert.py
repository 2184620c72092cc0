"""Converts WorkerService's messages to what workers and this service tell each other, and back."""

from collections.abc import Sequence

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.generation.v1.generation_pb2 import GenerateResponse
from mlxmesh.job.v1 import job_pb2
from mlxmesh.job.v1 import worker_pb2 as pb
from mlxmesh_jobs.domain.jobs import (
    AttemptId,
    BackEndState,
    Claim,
    Completed,
    Failed,
    FailureFacts,
    Kind,
    News,
    Outputs,
    Owner,
    Progress,
    Stopped,
    Update,
    Used,
)
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.workers.attempts import to_facts
from mlxmesh_jobs.workers.messages import BackEnd, Hello, Orders, Report
from mlxmesh_shared.errors import Internal, InvalidArgument, MeshError

_FAULTS = {
    pb.FAULT_JOB: Fault.JOB,
    pb.FAULT_TRANSIENT: Fault.TRANSIENT,
    pb.FAULT_SERVICE_UNAVAILABLE: Fault.SERVICE_UNAVAILABLE,
    pb.FAULT_TIMEOUT: Fault.TIMEOUT,
}
_OF_WORKERS = frozenset({Kind.GENERATION, Kind.EMBEDDING, Kind.REQUEST})
"""The kinds that a worker may take; that of connectors follows from its connectors."""


def from_hello(request: pb.WorkRequest) -> Hello:
    """Who a worker is. Raises: InvalidArgument."""
    if not request.HasField("hello"):
        raise InvalidArgument("hello is required in the first message", field="hello")
    hello = request.hello
    connectors = {each.name: tuple(each.operations) for each in hello.connectors}
    kinds = {_kind(number) for number in hello.kinds} - {Kind.CONNECTOR}
    return Hello(
        worker_id=hello.worker_id,
        session=hello.session,
        host=hello.host,
        slots=hello.slots,
        kinds=frozenset(kinds | ({Kind.CONNECTOR} if connectors else set[Kind]())),
        connectors=connectors,
        queues=frozenset(hello.queues),
        running=frozenset(map(from_attempt, hello.running)),
    )


def _kind(number: int) -> Kind:
    if number not in _OF_WORKERS | {Kind.CONNECTOR}:
        names = ", ".join(f"JOB_KIND_{each.name}" for each in sorted(_OF_WORKERS))
        raise InvalidArgument(f"hello.kinds may have {names}", field="hello.kinds")
    return Kind(number)


def from_report(request: pb.WorkRequest, *, is_first: bool = False) -> Report:
    """A message of a worker. Raises: InvalidArgument."""
    if request.HasField("hello") and not is_first:
        raise InvalidArgument("hello must be set in the first message only", field="hello")
    return Report(
        number=request.number,
        free_slots=request.free_slots,
        assignments=request.assignments,
        updates=[from_update(each, f"updates[{i}]") for i, each in enumerate(request.updates)],
        back_ends=[from_back_end(each) for each in request.back_ends],
        leaving=request.leaving,
        busy_connectors=frozenset(request.busy_connectors),
        connector_slots=dict(request.connector_slots),
    )


def from_attempt(attempt: pb.AttemptId) -> AttemptId:
    """An attempt."""
    return AttemptId(attempt.job_id, attempt.attempt)


def from_update(update: pb.AttemptUpdate, field: str) -> Update:
    """News of an attempt. Raises: InvalidArgument."""
    return Update(id=from_attempt(update.id), news=_news(update, field))


def _news(update: pb.AttemptUpdate, field: str) -> News:
    match update.WhichOneof("news"):
        case "progress":
            told = update.progress
            return Progress(
                fraction=told.fraction,
                done=told.done,
                total=told.total,
                unit=told.unit,
                text=told.text,
            )
        case "outputs":
            outputs = update.outputs
            return Outputs(
                first=outputs.first,
                messages=[each.SerializeToString() for each in outputs.messages],
                position=outputs.position.SerializeToString(),
            )
        case "result":
            return _ended(update.result)
        case "failure":
            return _failed(update.failure, field)
        case "back_end_state_json":
            return BackEndState(update.back_end_state_json)
        case _:
            return Stopped()


def _ended(result: pb.AttemptResult) -> Completed | Failed:
    """A request of a batch fails by the status of its response, which is kept."""
    encoded, used = result.SerializeToString(), None
    if result.HasField("used"):
        used = _used(result.used)
    status = result.request.status_code
    if result.HasField("request") and not 200 <= status < 300:
        failure = to_facts(_error_of(status))
        return Failed(failure=failure, fault=Fault.JOB, used=used, result=encoded)
    return Completed(result=encoded, cost=result.cost, used=used)


def _error_of(status: int) -> MeshError:
    text = f"the response has the HTTP status {status}; its body says why"
    return InvalidArgument(text) if 400 <= status < 500 else Internal(text)


def _failed(told: pb.AttemptFailure, field: str) -> Failed:
    fault = _FAULTS.get(told.fault)
    if fault is None:
        raise InvalidArgument("fault is not known here", field=f"{field}.failure.fault")
    used = _used(told.used) if told.HasField("used") else None
    return Failed(failure=from_failure(told.failure), fault=fault, used=used)


def from_failure(failure: Failure) -> FailureFacts:
    """Why an attempt failed."""
    return FailureFacts(
        code=failure.code,
        reason=failure.reason,
        message=failure.message,
        field=failure.field,
        retry_delay_ms=failure.retry_delay_ms,
    )


def _used(used: pb.UsedAmounts) -> Used:
    return Used(
        model=used.model,
        model_version=used.model_version,
        prompt_tokens=used.prompt_tokens,
        cached_tokens=used.cached_tokens,
        completion_tokens=used.completion_tokens,
        device_ms=used.device_ms,
    )


def from_back_end(told: job_pb2.BackEnd) -> BackEnd:
    """A back end."""
    return BackEnd(
        connector=told.connector,
        name=told.name,
        address=told.address,
        healthy=told.healthy,
        reason=told.reason,
        operations=tuple(told.operations),
    )


def to_welcome(
    *, lease_s: float, heartbeat_s: float, fenced: Sequence[AttemptId]
) -> pb.WorkResponse:
    """The first message to a worker."""
    return pb.WorkResponse(
        welcome=pb.Welcome(
            lease_ms=round(lease_s * 1000),
            heartbeat_ms=round(heartbeat_s * 1000),
            fenced=map(to_attempt, fenced),
        )
    )


def to_orders(orders: Orders) -> pb.WorkResponse:
    """A message to a worker."""
    return pb.WorkResponse(
        assignments=map(to_assignment, orders.assignments),
        cancellations=map(to_attempt, orders.cancellations),
        confirmed=orders.confirmed,
        fenced=map(to_attempt, orders.fenced),
    )


def to_attempt(attempt: AttemptId) -> pb.AttemptId:
    """An attempt."""
    return pb.AttemptId(job_id=attempt.job_id, attempt=attempt.attempt)


def to_assignment(claim: Claim) -> pb.Assignment:
    """An attempt to begin."""
    assignment = pb.Assignment(
        id=to_attempt(claim.id),
        kind=job_pb2.JobKind.ValueType(claim.kind),
        queue=claim.queue,
        owner=to_owner(claim.owner),
        timeout_ms=claim.timeout_ms,
        outputs=claim.outputs,
        back_end_state_json=claim.back_end_state,
    )
    if claim.started:
        assignment.started.CopyFrom(GenerateResponse.FromString(claim.started).started)
    if claim.position:
        assignment.position.MergeFromString(claim.position)
    if claim.kind is Kind.REQUEST:
        assignment.request.MergeFromString(claim.request)
        return assignment
    submitted = job_pb2.SubmitJobRequest.FromString(claim.request)
    match submitted.WhichOneof("work"):
        case "generation":
            assignment.generation.CopyFrom(submitted.generation)
        case "embedding":
            assignment.embedding.CopyFrom(submitted.embedding)
        case "connector":
            assignment.connector.CopyFrom(submitted.connector)
        case _:
            pass
    return assignment


def to_owner(owner: Owner) -> pb.JobOwner:
    """On whose behalf a job runs."""
    return pb.JobOwner(
        owner=owner.owner,
        principal=owner.principal,
        share=owner.share,
        user=owner.user,
        key_id=owner.key_id,
        team=owner.team,
        models=owner.models,
        is_admin=owner.is_admin,
    )
