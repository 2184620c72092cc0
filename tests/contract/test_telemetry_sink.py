"""Whoever takes telemetry: here, over a channel, or the gateway that the registry names."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from mlxmesh_engine.service.telemetry import STEP_DURATION
from mlxmesh_shared.errors import MethodNotFound, ServiceUnavailable
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.telemetry.metrics import BucketCounts
from mlxmesh_shared.telemetry.otlp import CollectingGateway, OtlpSink
from mlxmesh_shared.telemetry.sdk import Recorder
from mlxmesh_shared.telemetry.sink import TelemetrySink
from tests.fakes.otlp_collector import Received, collector
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.serving import serving

OPEN = partial(open_channel, pings=False)


@dataclass
class Case:
    """A sink, and what arrives behind it."""

    sink: TelemetrySink
    received: Received


@asynccontextmanager
async def in_process(received: Received) -> AsyncIterator[TelemetrySink]:
    yield received


@asynccontextmanager
async def over_a_channel(received: Received) -> AsyncIterator[TelemetrySink]:
    async with collector(received) as address:
        sink = OtlpSink(OPEN(address))
        try:
            yield sink
        finally:
            await sink.close()


@asynccontextmanager
async def at_another_gateway(received: Received) -> AsyncIterator[TelemetrySink]:
    async with collector(received) as address:
        sink = CollectingGateway(await registry_of(("gateway-1", address)), OPEN)
        try:
            yield sink
        finally:
            await sink.close()


@asynccontextmanager
async def at_this_gateway(received: Received) -> AsyncIterator[TelemetrySink]:
    registry = await registry_of(("gateway-1", "127.0.0.1:1"), ("gateway-2", "127.0.0.1:2"))
    yield CollectingGateway(registry, OPEN, own_id="gateway-1", local=received)


async def registry_of(*gateways: tuple[str, str]) -> InMemoryRegistry:
    registry = InMemoryRegistry()
    for name, address in gateways:
        await registry.register(Instance("gateway", name, address, pid=1))
    return registry


@pytest.fixture(params=[in_process, over_a_channel, at_another_gateway, at_this_gateway])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    received = Received()
    async with AsyncExitStack() as stack:
        yield Case(await stack.enter_async_context(request.param(received)), received)


async def test_all_three_signals_arrive(case: Case) -> None:
    recorder, counts = Recorder({"service.name": "x"}), BucketCounts(STEP_DURATION.bounds)
    recorder.telemetry.metrics.count(STEP_DURATION, counts)
    counts.record(0.1)
    recorder.telemetry.tracer.start_span("a", attributes={"rows": 3}).end()
    await case.sink.traces(recorder.drain_spans(10))
    await case.sink.metrics(recorder.read_metrics())
    await case.sink.logs(recorder.drain_log_records(10))
    (span,) = case.received.spans
    assert (span.service, span.name, span.attributes) == ("x", "a", {"rows": 3})
    assert STEP_DURATION.name in case.received.metrics_by_service["x"]
    assert len(case.received.raw) == 3


async def test_without_a_gateway_nobody_takes_it() -> None:
    registry = InMemoryRegistry()
    sink, received = CollectingGateway(registry, OPEN), Received()
    with pytest.raises(ServiceUnavailable, match="no gateway"):
        await sink.traces(Recorder({}).drain_spans(1))
    async with collector(received) as address:
        await registry.register(Instance("gateway", "gateway-1", address, pid=1))
        await sink.traces(Recorder({}).drain_spans(1))
        await sink.close()
    assert len(received.raw) == 1


async def test_all_go_to_the_gateway_with_the_smallest_id_and_follow_it() -> None:
    first, second = Received(), Received()
    empty = Recorder({}).drain_spans(1)
    async with collector(first) as one, collector(second) as two:
        registry = await registry_of(("gateway-b", two))
        sink = CollectingGateway(registry, OPEN, lookup_interval_s=0)
        await sink.traces(empty)
        smaller = Instance("gateway", "gateway-a", one, pid=1)
        await registry.register(smaller)
        await sink.traces(empty)
        assert (len(first.raw), len(second.raw)) == (1, 1)
        await registry.deregister(smaller)
        await sink.traces(empty)
        assert (len(first.raw), len(second.raw)) == (1, 2)
        # An empty answer of the registry changes nothing.
        await registry.deregister(Instance("gateway", "gateway-b", two, pid=1))
        await sink.traces(empty)
        assert len(second.raw) == 3
        await sink.close()


async def test_a_server_that_takes_no_telemetry_says_so() -> None:
    async with serving(MeshServer(services=[], service_names=[])) as address:
        sink = OtlpSink(OPEN(address))
        with pytest.raises(MethodNotFound):
            await sink.traces(Recorder({}).drain_spans(1))
        await sink.close()


async def test_nobody_at_an_address_is_unavailable() -> None:
    async with collector(Received()) as address:
        pass
    sink = OtlpSink(OPEN(address))
    with pytest.raises(ServiceUnavailable):
        await sink.metrics(Recorder({}).read_metrics())
    await sink.close()
