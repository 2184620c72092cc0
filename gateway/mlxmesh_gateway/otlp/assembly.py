"""Builds the receiver of telemetry from the settings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_gateway.otlp.fan_out import FanOut
from mlxmesh_gateway.otlp.lane import Lane, LaneOptions
from mlxmesh_gateway.otlp.recent_traces import KeepOptions, RecentTraces
from mlxmesh_gateway.otlp.selection import Selection
from mlxmesh_gateway.otlp.sinks.collector import CollectorSink
from mlxmesh_gateway.otlp.sinks.console import ConsoleSink
from mlxmesh_gateway.otlp.sinks.json_lines import JsonLinesSink
from mlxmesh_gateway.otlp.sinks.prometheus import PrometheusSink
from mlxmesh_gateway.otlp.tail_rules import TailOptions, TailRules
from mlxmesh_shared.settings import GatewaySettings
from mlxmesh_shared.settings.sinks import Signal, SinkSettings

_log = logging.getLogger(__name__)

FLUSH_S = 2.0
"""How long a stopping gateway waits for its sinks to accept their queues."""

Sink = PrometheusSink | CollectorSink | JsonLinesSink | ConsoleSink


@dataclass(frozen=True)
class Receiver:
    """The fan-out with its sinks, and the parts that others read."""

    fan_out: FanOut
    recent: RecentTraces
    prometheus: PrometheusSink | None
    """None if it is not among the sinks."""
    sinks: tuple[Sink, ...]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Feeds the sinks while the body runs, then closes them."""
        task = asyncio.create_task(self.fan_out.run(), name="telemetry-fan-out")
        task.add_done_callback(_tell_failure)
        try:
            yield
        finally:
            await self.fan_out.settle(FLUSH_S)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for sink in self.sinks:
                await sink.close()


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("telemetry is passed on no more: %s", type(error).__name__)


def open_receiver(settings: GatewaySettings, instance_id: str) -> Receiver:
    """On a running event loop. Raises: IllegalState when a sink's files cannot be used."""
    sinks = tuple(_open_sink(each) for each in settings.telemetry_sinks)
    lanes = [
        Lane(
            each.name,
            sink,
            Selection(_signals(each), each.services, each.severity),
            _lane_options(each),
        )
        for each, sink in zip(settings.telemetry_sinks, sinks, strict=True)
    ]
    kept = KeepOptions(settings.kept_traces, settings.kept_trace_bytes, settings.kept_trace_s)
    recent = RecentTraces(kept)
    tail = TailRules(TailOptions(settings.trace_export_ratio, settings.trace_slow_ms))
    prometheus = next((sink for sink in sinks if isinstance(sink, PrometheusSink)), None)
    fan_out = FanOut(
        lanes,
        recent,
        tail,
        instance_id=instance_id,
        left_out=lambda: prometheus.left_out if prometheus is not None else 0,
    )
    return Receiver(fan_out, recent, prometheus, sinks)


def _lane_options(settings: SinkSettings) -> LaneOptions:
    if settings.kind in ("file", "console"):
        # A hanging write cannot be cancelled, and a second one would hang as well.
        return LaneOptions(queue_bytes=settings.queue_bytes, send_timeout_s=None)
    return LaneOptions(queue_bytes=settings.queue_bytes)


def _signals(settings: SinkSettings) -> tuple[Signal, ...]:
    return ("metrics",) if settings.kind == "prometheus" else settings.signals


def _open_sink(settings: SinkSettings) -> Sink:
    match settings.kind:
        case "prometheus":
            return PrometheusSink()
        case "otlp":
            return CollectorSink(settings)
        case "file":
            path = Path(settings.target)
            return JsonLinesSink(path, max_bytes=settings.max_bytes, keep_files=settings.keep_files)
        case "console":
            return ConsoleSink(sys.stdout)
