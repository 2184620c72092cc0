"""GetTrace: from this gateway's memory, or another one's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from mlxmesh.telemetry.v1 import telemetry_pb2 as wire
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceStub
from mlxmesh_gateway.otlp.convert import span_message
from mlxmesh_gateway.otlp.recent_traces import RecentTraces
from mlxmesh_shared.errors import MeshError, TraceNotFound
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.rpc.channels import OpenChannel

TIMEOUT_S = 2.0


class Traces:
    """Finds the trace of a request."""

    def __init__(
        self,
        recent: RecentTraces,
        registry: Registry,
        open_: OpenChannel,
        *,
        instance_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """instance_id: this gateway's, which asks the others and not itself."""
        self._recent = recent
        self._registry = registry
        self._open = open_
        self._instance_id = instance_id
        self._clock = clock

    async def find(self, request: wire.GetTraceRequest) -> wire.GetTraceResponse:
        """Raises: TraceNotFound when no gateway has it."""
        answers = [] if (own := self._here(request)) is None else [own]
        if not answers and not request.local_only:
            answers = await self._elsewhere(request)
        if not answers:
            raise TraceNotFound(self._why_not())
        spans = [span for answer in answers for span in answer.spans]
        spans.sort(key=lambda span: (span.start_unix_nano, -span.duration_nano))
        since_ms = min(answer.time_since_last_span_ms for answer in answers)
        return wire.GetTraceResponse(spans=spans, time_since_last_span_ms=since_ms)

    def _here(self, request: wire.GetTraceRequest) -> wire.GetTraceResponse | None:
        if request.WhichOneof("key") == "trace_id":
            traces = self._recent.of_trace(bytes.fromhex(request.trace_id))
        else:
            traces = self._recent.of_request(request.request_id)
        if not traces:
            return None
        settled_s = self._clock() - max(trace.last_s for trace in traces)
        return wire.GetTraceResponse(
            spans=[span_message(kept) for trace in traces for kept in trace.spans],
            time_since_last_span_ms=round(settled_s * 1000),
        )

    async def _elsewhere(self, request: wire.GetTraceRequest) -> list[wire.GetTraceResponse]:
        asked = wire.GetTraceRequest()
        asked.CopyFrom(request)
        asked.local_only = True
        others = [one for one in await self._gateways() if one.instance_id != self._instance_id]
        answers = await asyncio.gather(*(self._ask(one, asked) for one in others))
        return [answer for answer in answers if answer is not None]

    async def _gateways(self) -> Sequence[Instance]:
        try:
            return await self._registry.resolve("gateway")
        except (MeshError, OSError):
            return ()  # with a failing registry the answer is "not here" as well

    async def _ask(
        self, gateway: Instance, request: wire.GetTraceRequest
    ) -> wire.GetTraceResponse | None:
        async with self._open(gateway.address, role="gateway") as channel:
            try:
                return await TelemetryServiceStub(channel).GetTrace(request, timeout=TIMEOUT_S)
            except MeshError:
                return None

    def _why_not(self) -> str:
        options = self._recent.options
        return (
            "no gateway has this trace: it comes about 2 s after its request has ended, and is kept"
            f" for {options.max_age_s:g} s, or sooner when {options.max_traces} others or"
            f" {options.max_bytes // 2**20} MiB of them follow; requests that trace_sample_ratio"
            " left out have none"
        )
