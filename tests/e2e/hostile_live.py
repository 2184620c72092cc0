"""Illegal messages for live state, recent requests and the system."""

from __future__ import annotations

from typing import Any

from mlxmesh.job.v1 import job_pb2
from mlxmesh.telemetry.v1 import live_pb2, system_pb2
from tests.e2e.hostile_routing import Cases

LIVE = "/mlxmesh.telemetry.v1.LiveService"
SYSTEM = "/mlxmesh.telemetry.v1.SystemService"
JOBS = "/mlxmesh.job.v1.JobService"
STREAMING = {f"{LIVE}/Watch", f"{SYSTEM}/WatchLog", f"{JOBS}/WatchJobs"}

_BAD_WATCHES: dict[str, tuple[Any, ...]] = {
    "topics": ([], [1] * 9),
    "interval_ms": (1, 199, 60_001, 2**32 - 1),
    "event_log_id": ("x" * 65,),
}
_BAD_LISTS: dict[str, tuple[Any, ...]] = {
    "model": ("x" * 97,),
    "principal": ("x" * 129,),
    "request_id": ("x" * 129,),
    "page_size": (-1, 1001, 2**31 - 1),
    "page_token": ("x", "\x00", "eA==", "x" * 257),
}
_BAD_NAMES: dict[str, tuple[str, ...]] = {
    "service": ("", "A", "a b", "../x", "x" * 33),
    "instance_id": ("", "a b", "../x", "x" * 201),
}
_BAD_JOB_WATCHES: dict[str, tuple[Any, ...]] = {
    "after_change": (2**63, 2**64 - 1),
    "newest": (501, 2**32 - 1),
    "interval_ms": (1, 99, 60_001),
}


def bad_live() -> Cases:
    """All of them."""
    for field, values in _BAD_WATCHES.items():
        for value in values:
            fields = {"topics": [live_pb2.TOPIC_MESH], field: value}
            yield f"{LIVE}/Watch", field, live_pb2.WatchRequest(**fields)
    wrong: list[list[Any]] = [[0], [99], [1, 1]]
    for topics in wrong:
        request = live_pb2.WatchRequest(topics=topics)
        yield f"{LIVE}/Watch", f"topics[{len(topics) - 1}]", request
    for field, values in _BAD_LISTS.items():
        for value in values:
            request = live_pb2.ListRequestsRequest(**{field: value})
            yield f"{LIVE}/ListRequests", field, request
    for field, values in _BAD_JOB_WATCHES.items():
        for value in values:
            yield f"{JOBS}/WatchJobs", field, job_pb2.WatchJobsRequest(**{field: value})
    yield from _bad_processes()


def _bad_processes() -> Cases:
    for field, names in _BAD_NAMES.items():
        for name in names:
            fields: dict[str, Any] = {"service": "gateway", "instance_id": "gateway-1", field: name}
            yield f"{SYSTEM}/ListSettings", field, system_pb2.ListSettingsRequest(**fields)
            yield f"{SYSTEM}/DrainProcess", field, system_pb2.DrainProcessRequest(**fields)
            yield f"{SYSTEM}/WatchLog", field, system_pb2.WatchLogRequest(**fields)
    log: dict[str, Any] = {"service": "gateway", "instance_id": "gateway-1"}
    yield f"{SYSTEM}/WatchLog", "tail", system_pb2.WatchLogRequest(**log, tail=2001)
    yield f"{SYSTEM}/WatchLog", "min_level", system_pb2.WatchLogRequest(**log, min_level="loud")
