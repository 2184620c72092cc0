"""Recent requests as tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from mlxmesh.telemetry.v1.live_pb2 import REQUEST_STATE_RUNNING, RequestRecord
from mlxmesh_cli.screen.grid import Column, Grid


def requests_table(records: Sequence[RequestRecord]) -> Grid:
    """One row per request."""
    table = Grid(
        Column("began"),
        Column("request", drop=3),
        Column("model"),
        Column("state"),
        Column("caller", drop=4),
        Column("protocol", drop=6),
        Column("prompt", drop=5, right=True),
        Column("output", drop=2, right=True),
        Column("first", drop=5, right=True),
        Column("duration", drop=1, right=True),
    )
    for one in records:
        table.add(
            _began(one),
            one.request_id,
            _model(one),
            state_of(one),
            one.principal,
            one.protocol,
            f"{one.prompt_tokens:,}",
            f"{one.completion_tokens:,}",
            _ms(one.first_output_ms),
            _ms(one.duration_ms),
        )
    return table


def request_facts(one: RequestRecord) -> Grid:
    """All facts of one request."""
    facts = {
        "request": one.request_id,
        "trace": one.trace_id,
        "began": _began(one),
        "state": state_of(one),
        "failure": one.failure.message,
        "caller": one.principal,
        "protocol": one.protocol,
        "method": one.method,
        "model": _model(one),
        "arm": one.arm,
        "engine": one.engine_id,
        "generation": one.generation_id,
        "gateway": one.gateway_id,
        "prompt tokens": f"{one.prompt_tokens:,}, of them cached {one.cached_tokens:,}",
        "output tokens": f"{one.completion_tokens:,}",
        "first output": _ms(one.first_output_ms),
        "duration": _ms(one.duration_ms),
        "resumptions": str(one.resumptions or ""),
    }
    table = Grid(Column("fact"), Column("value"))
    for name, value in facts.items():
        if value:
            table.add(name, value)
    return table


def state_of(one: RequestRecord) -> str:
    """running, the reason of its error, or why it ended."""
    if one.state == REQUEST_STATE_RUNNING:
        return "running"
    return one.failure.reason or one.finish_reason or "ended"


def _model(one: RequestRecord) -> str:
    return f"{one.model}@{one.model_version}" if one.model_version else one.model


def _began(one: RequestRecord) -> str:
    time = one.start_time.ToDatetime(tzinfo=UTC).astimezone()
    return f"{time:%H:%M:%S}"


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value else ""
