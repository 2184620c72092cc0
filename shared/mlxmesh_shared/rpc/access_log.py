"""Where an error came from, without its text, which may quote a prompt."""

import logging
import traceback
from typing import cast

import grpc

from mlxmesh_shared.rpc.methods import is_background


def first_of(error: BaseException) -> BaseException:
    """The first error of a task group's errors; the others fell with it."""
    if isinstance(error, BaseExceptionGroup):
        return first_of(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return error


def trace_of(error: BaseException) -> str:
    """Where an error came from, by frames and classes: its text may quote a prompt."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    cause = error.__cause__ or error.__context__
    before = f"{trace_of(cause)}which led to\n" if cause is not None else ""
    return f"{before}{frames}{type(error).__qualname__}\n"


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
