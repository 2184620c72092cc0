"""The guard's calls as spans and metrics."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint

from mlxmesh.generation.v1.generation_pb2 import CountTokensRequest, CountTokensResponse
from mlxmesh.generation.v1.generation_pb2_grpc import (
    GenerationServiceStub,
    add_GenerationServiceServicer_to_server,
)
from mlxmesh_shared.errors import EngineFailed, MeshError, ModelNotFound
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.telemetry.calls import ServedCalls
from mlxmesh_shared.telemetry.log_records import TraceFilter
from mlxmesh_shared.telemetry.sdk import Recorder
from tests.fakes.otlp_collector import Received, ReceivedSpan, values
from tests.fakes.public_services import FakeGeneration
from tests.fakes.serving import serving

SERVICE = "mlxmesh.generation.v1.GenerationService"
COUNT = f"{SERVICE}/CountTokens"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)


class Servicer(FakeGeneration):
    """Answers, fails or hangs, as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.error: MeshError | None = None
        self.hangs = False

    async def CountTokens(self, request: CountTokensRequest, context: Any) -> CountTokensResponse:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        logging.getLogger("test").warning("counting")
        return CountTokensResponse(tokens=1)


class Stand:
    """A server whose calls are watched, and a client of it."""

    def __init__(
        self, server: MeshServer, stub: GenerationServiceStub, channel: Any, servicer: Servicer
    ) -> None:
        self.server = server
        self.servicer = servicer
        self.stub = stub
        self.channel = channel
        self.recorder = Recorder({"service.name": "x"})

    async def call(self, **options: Any) -> None:
        with contextlib.suppress(MeshError):
            await self.stub.CountTokens(CountTokensRequest(model="pocket", prompt="x"), **options)

    async def spans(self) -> list[ReceivedSpan]:
        """The spans of the calls that have ended by now."""
        self.server.flush()
        received = Received()
        await received.traces(self.recorder.drain_spans(100))
        return received.spans

    async def span(self) -> ReceivedSpan:
        """The span of the only call, which may end after its client has the answer."""
        async with asyncio.timeout(30):
            while not (spans := await self.spans()):
                await asyncio.sleep(0.01)
        (span,) = spans
        return span

    async def codes(self) -> dict[str, int]:
        """Calls counted, by method and status, as soon as there are any."""
        async with asyncio.timeout(30):
            while not (points := await self.durations()):
                await asyncio.sleep(0.01)
        found = [(values(each.attributes), each.count) for each in points]
        return {
            f"{labels['rpc.method']} {labels['rpc.response.status_code']}": count
            for labels, count in found
        }

    async def durations(self) -> Sequence[HistogramDataPoint]:
        self.server.flush()
        received = Received()
        await received.metrics(self.recorder.read_metrics())
        metric = received.metrics_by_service["x"].get("rpc.server.call.duration")
        return metric.histogram.data_points if metric is not None else ()


@contextlib.asynccontextmanager
async def running(*begins: str) -> AsyncIterator[Stand]:
    servicer = Servicer()
    recorder = Recorder({"service.name": "x"})
    server = MeshServer(
        services=[(add_GenerationServiceServicer_to_server, servicer)],
        service_names=[SERVICE],
        watcher=ServedCalls(recorder.telemetry, begins=set(begins)),
    )
    async with serving(server) as address, open_channel(address) as channel:
        stand = Stand(server, GenerationServiceStub(channel), channel, servicer)
        stand.recorder = recorder
        yield stand


async def test_a_call_of_a_trace_is_a_span_in_it() -> None:
    async with running() as stand:
        await stand.call(metadata=CONTEXT)
        span = await stand.span()
        assert (span.name, span.trace_id, span.parent_id) == (COUNT, TRACE, SPAN)
        assert span.attributes == {
            "rpc.system.name": "grpc",
            "rpc.method": COUNT,
            "rpc.response.status_code": "OK",
        }
        assert span.start_ns < span.end_ns


@pytest.mark.parametrize("metadata", [None, (("traceparent", "xyzzy"),)])
async def test_only_chosen_methods_begin_a_trace(metadata: Any) -> None:
    async with running() as quiet, running(f"/{COUNT}") as telling:
        for stand in (quiet, telling):
            await stand.call(metadata=metadata)
            assert await stand.codes() == {f"{COUNT} OK": 1}
        assert await quiet.spans() == []
        span = await telling.span()
        assert span.parent_id == ""


@pytest.mark.parametrize(
    ("error", "code", "failed"),
    [
        (ModelNotFound("no such model"), "NOT_FOUND", False),
        (EngineFailed("it broke"), "INTERNAL", True),
    ],
)
async def test_only_the_servers_own_faults_make_a_span_an_error(
    error: MeshError, code: str, failed: bool
) -> None:
    async with running() as stand:
        stand.servicer.error = error
        await stand.call(metadata=CONTEXT)
        span = await stand.span()
        assert (span.attributes["rpc.response.status_code"], span.failed) == (code, failed)
        assert span.attributes.get("error.type") == (code if failed else None)
        assert error.message not in str(span)
        assert await stand.codes() == {f"{COUNT} {code}": 1}


async def test_a_deadline_that_passes_ends_the_span() -> None:
    async with running() as stand:
        stand.servicer.hangs = True
        await stand.call(metadata=CONTEXT, timeout=0.2)
        span = await stand.span()
        assert span.attributes["rpc.response.status_code"] == "DEADLINE_EXCEEDED"
        assert span.failed


async def test_what_the_mesh_asks_itself_is_not_watched() -> None:
    async with running() as stand:
        health: Any = health_pb2_grpc.HealthStub(stand.channel)
        await health.Check(health_pb2.HealthCheckRequest(), metadata=CONTEXT)
        await stand.call(metadata=CONTEXT)
        assert (await stand.span()).name == COUNT
        assert await stand.codes() == {f"{COUNT} OK": 1}


async def test_a_method_that_there_is_not_has_no_name() -> None:
    async with running() as stand:
        with pytest.raises(MeshError):
            await stand.channel.unary_unary(f"/{SERVICE}/xyzzy")(b"")
        assert await stand.codes() == {"(unknown) UNIMPLEMENTED": 1}


async def test_logs_and_values_know_the_call_that_they_come_from(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.handler.addFilter(TraceFilter())
    async with running() as stand:
        await stand.call(metadata=CONTEXT)
        span = await stand.span()
        (record,) = [record for record in caplog.records if record.name == "test"]
        assert vars(record)["trace_id"] == TRACE
        assert vars(record)["span_id"] == span.span_id
        (point,) = await stand.durations()
        assert [each.trace_id.hex() for each in point.exemplars] == [TRACE]
