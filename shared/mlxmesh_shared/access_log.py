"""One record of each call: its method, status and duration, and nothing of what it said."""

import logging

import grpc

from mlxmesh_shared.methods import is_background

_log = logging.getLogger("mlxmesh.access")


def access_level(method: str, code: grpc.StatusCode, *, log_successes: bool) -> int | None:
    """The level of a call's record, None for no record."""
    succeeded = code is grpc.StatusCode.OK
    quiet = is_background(method) or (succeeded and not log_successes)
    level = logging.DEBUG if quiet else logging.INFO
    return level if _log.isEnabledFor(level) else None


def record_access(
    level: int, ended_ns: int, method: str, code: grpc.StatusCode, took_s: float, peer: str
) -> None:
    """Records a call that ended at a time of the wall clock."""
    outcome = {"code": code.name, "ms": round(took_s * 1000, 1), "peer": peer}
    extra = {"operation": "access", "fields": {"method": method, **outcome}}
    record = _log.makeRecord(_log.name, level, "", 0, "call", (), None, extra=extra)
    record.created = ended_ns / 1e9
    _log.handle(record)
