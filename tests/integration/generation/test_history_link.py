"""Outcomes on their way from a generation instance to whichever model service is there."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import fields

import pytest

from mlxmesh.model.v1.history_pb2_grpc import add_HistoryServiceServicer_to_server
from mlxmesh_generation.domain.outcome import Outcome, Status
from mlxmesh_generation.domain.routing import Assignment
from mlxmesh_generation.reporting import convert
from mlxmesh_generation.reporting.history_link import HistoryLink
from mlxmesh_generation.reporting.reporter import Batch, OutcomeReporter
from mlxmesh_model.outcomes.convert import to_outcome
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.channels import ChannelPool
from mlxmesh_shared.rpc.server import MeshServer
from tests.fakes.history_service import FakeHistoryService
from tests.fakes.registry import InMemoryRegistry

FULL = Outcome(
    request_id="r-1",
    principal="user:ada",
    model="pocket",
    version=3,
    status=Status.FAILED,
    end_ms=1_700_000_000_123,
    assignment=Assignment("canary", "ro-1", "ex-1", b"0123456789abcdef"),
    error_reason="ENGINE_LOST",
    prompt_tokens=7,
    cached_tokens=4,
    completion_tokens=9,
    ttft_ms=0.0,
    tpot_ms=2.5,
    duration_ms=30.5,
    device_ms=12.25,
    schema_valid=False,
    tools_valid=True,
    cost=0.125,
)
BARE = Outcome(
    request_id="r-2", principal="", model="pocket", version=1, status=Status.COMPLETED, end_ms=5
)


class Rig:
    def __init__(self, stack: AsyncExitStack) -> None:
        self.registry = InMemoryRegistry()
        self.channels = ChannelPool()
        self._stack = stack

    async def start(self, instance_id: str) -> FakeHistoryService:
        service = FakeHistoryService()
        server = MeshServer(
            services=[(add_HistoryServiceServicer_to_server, service)],
            service_names=["mlxmesh.model.v1.HistoryService"],
        )
        address = await server.start()
        self._stack.push_async_callback(server.drain, 0, 0)
        await self.registry.register(Instance("model", instance_id, address, 0))
        return service

    def link(self, instance_id: str = "generation-1") -> HistoryLink:
        return HistoryLink(self.registry, self.channels, instance_id)


@pytest.fixture
async def rig() -> AsyncGenerator[Rig]:
    async with AsyncExitStack() as stack:
        rig = Rig(stack)
        stack.push_async_callback(rig.channels.close)
        yield rig


@pytest.mark.parametrize("outcome", [FULL, BARE], ids=["full", "bare"])
def test_the_model_service_reads_what_generation_writes(outcome: Outcome) -> None:
    read = to_outcome(convert.outcome(outcome))
    for each in fields(outcome):
        if each.name not in ("assignment", "end_ms", "status"):
            assert getattr(read, each.name) == getattr(outcome, each.name), each.name
    assert read.status.value == outcome.status.value
    assert read.end_time.timestamp() == outcome.end_ms / 1000
    for each in fields(Assignment):
        assert getattr(read, each.name) == getattr(outcome.assignment, each.name), each.name


async def test_it_sends_the_number_and_the_outcomes(rig: Rig) -> None:
    service = await rig.start("model-1")
    await rig.link().send(Batch(7, [FULL, BARE]))
    [request] = service.requests
    assert request.batch == 7
    assert [each.request_id for each in request.outcomes] == ["r-1", "r-2"]


async def test_each_process_has_a_sender_of_its_own(rig: Rig) -> None:
    service = await rig.start("model-1")
    for _ in range(2):  # a restart, with the same instance id
        await rig.link("x" * 200).send(Batch(1, [BARE]))
    senders = {request.instance_id for request in service.requests}
    assert len(senders) == 2
    assert max(map(len, senders)) <= 128


async def test_without_a_model_service_it_is_unavailable(rig: Rig) -> None:
    with pytest.raises(ServiceUnavailable):
        await rig.link().send(Batch(1, [BARE]))


async def test_after_a_failure_another_model_service_is_asked(rig: Rig) -> None:
    first, second = await rig.start("model-1"), await rig.start("model-2")
    link = rig.link()
    first.error = ServiceUnavailable("restarting")
    with pytest.raises(ServiceUnavailable):
        await link.send(Batch(1, [BARE]))
    for number in (1, 2):
        await link.send(Batch(number, [BARE]))
    assert [request.batch for request in second.requests] == [1, 2]
    assert first.requests == []


async def test_the_reporter_delivers_to_a_model_service_that_comes_later(rig: Rig) -> None:
    reporter = OutcomeReporter(rig.link().send, interval_s=0.01)
    async with reporter.running():
        reporter.record(FULL)
        service = await rig.start("model-1")
    assert [request.batch for request in service.requests] == [1]
