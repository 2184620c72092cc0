"""Converts recorded requests to messages, and chooses those that a caller may see."""

from __future__ import annotations

import time
from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.generation.v1.generation_pb2 import FinishReason
from mlxmesh.telemetry.v1 import live_pb2 as pb
from mlxmesh_gateway.forwarding.request_log import RequestEntry, RequestFailure, RequestLog
from mlxmesh_shared.page_tokens import from_page_token, to_page_token

ANONYMOUS = "anonymous"
DEFAULT_PAGE_SIZE = 100
_REASON = "FINISH_REASON_"
_NEWEST_NS = 2**62

Owned = tuple[str, pb.RequestRecord]
"""The id of the principal that owns a request, and the request."""


def owned_requests(
    log: RequestLog, gateway_id: str, after_change: int, *, now_ns: int | None = None
) -> list[Owned]:
    """The requests of this gateway that changed after a number, and all that run.

    now_ns: by the log's clock, which is the monotonic one by default.
    """
    now_ns = time.monotonic_ns() if now_ns is None else now_ns
    entries = log.changed_after(after_change)
    return [(entry.owner, _record(entry, log, gateway_id, now_ns)) for entry in entries]


def _record(entry: RequestEntry, log: RequestLog, gateway_id: str, now_ns: int) -> pb.RequestRecord:
    used, ended = entry.used, entry.has_ended
    start_time = Timestamp()
    start_time.FromNanoseconds(entry.start_ns)
    return pb.RequestRecord(
        id=f"{gateway_id}:{log.log_id}:{entry.number}",
        request_id=used.request_id,
        trace_id=f"{entry.trace_id:032x}" if entry.trace_id else "",
        gateway_id=gateway_id,
        principal=principal_of(entry.owner),
        protocol=entry.protocol,
        method=entry.method,
        model=used.model or entry.model,
        model_version=used.model_version,
        arm=used.arm,
        adapter=used.adapter,
        engine_id=used.engine_id,
        generation_id=used.generation_id,
        state=pb.REQUEST_STATE_ENDED if ended else pb.REQUEST_STATE_RUNNING,
        start_time=start_time,
        first_output_ms=entry.first_output_ms(),
        duration_ms=entry.duration_ms(now_ns),
        prompt_tokens=used.prompt_tokens,
        cached_tokens=used.cached_tokens,
        # While it runs, each message has at least one token.
        completion_tokens=used.completion_tokens or used.messages,
        finish_reason=_reason(used.finish_reason) if ended and entry.failure is None else "",
        failure=_failure(entry.failure),
        resumptions=used.resumptions,
    )


def principal_of(owner: str) -> str:
    """Who a principal's id names, without what the caller merely claims."""
    return owner.partition("#")[0] or ANONYMOUS


def _reason(number: int) -> str:
    if not number:
        return ""
    return FinishReason.Name(FinishReason.ValueType(number)).removeprefix(_REASON).lower()


def _failure(failure: RequestFailure | None) -> Failure | None:
    if failure is None:
        return None
    return Failure(code=failure.code, reason=failure.reason, message=failure.message)


def newest_first(requests: Iterable[Owned]) -> list[Owned]:
    """Ordered by their start; those of several gateways by their clocks."""
    return sorted(requests, key=lambda one: _position(one[1]), reverse=True)


def page(
    requests: Iterable[Owned], request: pb.ListRequestsRequest, *, owner: str
) -> pb.ListRequestsResponse:
    """The page that a request asks for. Raises: InvalidArgument for an unknown page_token.

    owner: only requests of this principal; empty for all.
    """
    before = from_page_token(request.page_token, (_NEWEST_NS, ""))
    size = request.page_size or DEFAULT_PAGE_SIZE
    found = [
        record
        for whose, record in newest_first(requests)
        if (not owner or whose == owner)
        and _matches(record, request)
        and (not request.page_token or _position(record) < before)
    ]
    token = to_page_token(_position(found[size - 1])) if len(found) > size else ""
    return pb.ListRequestsResponse(requests=found[:size], next_page_token=token)


def _matches(record: pb.RequestRecord, request: pb.ListRequestsRequest) -> bool:
    return (
        (not request.model or record.model == request.model)
        and (not request.principal or record.principal == request.principal)
        and (not request.state or record.state == request.state)
        and (not request.failed_only or record.HasField("failure"))
        and (not request.request_id or record.request_id == request.request_id)
    )


def _position(record: pb.RequestRecord) -> tuple[int, str]:
    return record.start_time.ToNanoseconds(), record.id
