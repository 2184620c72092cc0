"""LiveService and SystemService over real gRPC, with scripts behind the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from grpc import aio

from mlxmesh.telemetry.v1 import live_pb2 as pb
from mlxmesh.telemetry.v1 import system_pb2
from mlxmesh.telemetry.v1.live_pb2_grpc import LiveServiceStub
from mlxmesh.telemetry.v1.system_pb2_grpc import SystemServiceStub
from mlxmesh_client import MeshClient
from mlxmesh_gateway.assembly import services_of_port
from mlxmesh_gateway.door.entrance import Authorizer
from mlxmesh_gateway.door.principal import Kind, Principal
from mlxmesh_gateway.forwarding.request_log import RequestLog
from mlxmesh_gateway.live.live_servicer import METHODS, LiveServicer
from mlxmesh_gateway.live.requests import MeshRequests
from mlxmesh_gateway.live.sources import Watcher
from mlxmesh_gateway.mesh.processes import ProcessChannels
from mlxmesh_shared.errors import (
    InstanceNotFound,
    InvalidArgument,
    MeshError,
    PermissionDenied,
    ServiceUnavailable,
)
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.tls.identity import PeerIdentity, Role
from mlxmesh_shared.tls.method_access import MethodAccess
from tests.fakes.registry import InMemoryRegistry

TIMEOUT_S = 20


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[aio.Channel]:
    async with open_channel(address) as channel:
        yield channel


class Watched:
    """Collects what a watch sends."""

    def __init__(self, channel: aio.Channel, *topics: Any, **fields: Any) -> None:
        request = pb.WatchRequest(topics=topics, interval_ms=200, **fields)
        self.responses: list[pb.WatchResponse] = []
        self._call = LiveServiceStub(channel).Watch(request)
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for response in self._call:
            self.responses.append(response)

    def of(self, news: str) -> list[Any]:
        return [getattr(one, news) for one in self.responses if one.WhichOneof("news") == news]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                if self._task.done():
                    self._task.result()
                await asyncio.sleep(0.01)

    async def until_synced(self, *topics: int) -> None:
        await self.until(lambda: {one.topic for one in self.of("topic") if one.synced} >= {*topics})

    async def close(self) -> None:
        self._call.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_the_mesh_is_sent_whole_and_again_when_it_changes(stand: Any) -> None:
    async with channel_to(await stand.gateway()) as channel:
        watched = Watched(channel, pb.TOPIC_MESH)
        await watched.until_synced(pb.TOPIC_MESH)
        await stand.generation()
        await watched.until(
            lambda: any(one.service == "generation" for one in watched.of("mesh")[-1].instances)
        )
        await watched.close()


async def test_a_request_is_seen_while_it_runs_and_when_it_has_ended(stand: Any) -> None:
    generation = await stand.generation()
    await stand.models()
    generation.go_on.clear()
    address = await stand.gateway()
    client: MeshClient = await stand.client(address)
    async with channel_to(address) as channel:
        watched = Watched(channel, pb.TOPIC_REQUESTS)
        await watched.until_synced(pb.TOPIC_REQUESTS)
        stream = client.generate("pocket", prompt="a b c")
        await anext(stream)

        def records() -> list[pb.RequestRecord]:
            return [one for change in watched.of("requests") for one in change.requests]

        await watched.until(lambda: any(one.engine_id for one in records()))
        assert records()[-1].state == pb.REQUEST_STATE_RUNNING
        generation.go_on.set()
        async for _ in stream:
            pass
        await watched.until(lambda: records()[-1].state == pb.REQUEST_STATE_ENDED)
        ended = records()[-1]
        assert (ended.model, ended.protocol, ended.finish_reason) == ("pocket", "grpc", "stop")
        assert ended.generation_id == "generation-1"
        assert len({one.id for one in records()}) == 1
        await watched.close()


async def test_requests_of_another_gateway_are_listed_and_watched(stand: Any) -> None:
    await stand.generation()
    await stand.models()
    first, second = await stand.gateway(), await stand.gateway()
    await (await stand.client(first)).complete("pocket", prompt="a")
    await (await stand.client(second)).complete("pocket", prompt="b")
    async with channel_to(first) as channel:
        response = await LiveServiceStub(channel).ListRequests(pb.ListRequestsRequest())
        assert [one.gateway_id for one in response.requests] == ["gateway-2", "gateway-1"]
        watched = Watched(channel, pb.TOPIC_REQUESTS)
        await watched.until_synced(pb.TOPIC_REQUESTS)
        await (await stand.client(second)).complete("pocket", prompt="c")
        await watched.until(
            lambda: (
                len({one.id for change in watched.of("requests") for one in change.requests}) == 3
            )
        )
        await watched.close()


async def test_a_request_says_by_which_protocol_it_came(stand: Any) -> None:
    await stand.generation()
    await stand.models()
    address = await stand.gateway(http_listen="127.0.0.1:0")
    http = f"http://{await stand.http(address)}"
    chat = {"model": "pocket", "messages": [{"role": "user", "content": "a"}]}
    complete = {"generation": {"model": "pocket", "prompt": "a"}}
    version = {"anthropic-version": "2023-06-01"}
    async with aiohttp.ClientSession(http, headers=version) as session:
        for path, body in (
            ("/v1/chat/completions", chat),
            ("/v1/messages", {**chat, "max_tokens": 5}),
            ("/mlxmesh.generation.v1.GenerationService/Complete", complete),
        ):
            async with session.post(path, json=body) as response:
                assert response.status == 200, await response.text()
    async with channel_to(address) as channel:
        found = await LiveServiceStub(channel).ListRequests(pb.ListRequestsRequest())
    assert [one.protocol for one in found.requests] == ["connect", "anthropic", "openai"]


async def test_a_failed_request_says_why(stand: Any) -> None:
    generation = await stand.generation()
    await stand.models()
    generation.failures = [ServiceUnavailable("away")] * 9
    address = await stand.gateway()
    with pytest.raises(MeshError):
        await (await stand.client(address)).complete("pocket", prompt="a")
    async with channel_to(address) as channel:
        request = pb.ListRequestsRequest(failed_only=True)
        async with asyncio.timeout(TIMEOUT_S):
            while not (found := (await LiveServiceStub(channel).ListRequests(request)).requests):
                await asyncio.sleep(0.01)
    record = found[0]
    assert record.failure.reason == ServiceUnavailable.reason
    assert (record.finish_reason, record.state) == ("", pb.REQUEST_STATE_ENDED)


async def test_a_topic_whose_service_is_away_says_so_and_comes_back(stand: Any) -> None:
    async with channel_to(await stand.gateway()) as channel:
        watched = Watched(channel, pb.TOPIC_MODELS, pb.TOPIC_JOBS)
        await watched.until(
            lambda: (
                {one.topic for one in watched.of("topic") if one.HasField("failure")}
                == {pb.TOPIC_MODELS, pb.TOPIC_JOBS}
            )
        )
        await stand.models()
        await watched.until_synced(pb.TOPIC_MODELS)
        failures = [one for one in watched.of("topic") if one.topic == pb.TOPIC_JOBS]
        assert len(failures) == 1  # not again at each try
        await watched.close()


async def test_events_resume_after_the_last_one(stand: Any) -> None:
    async with channel_to(await stand.gateway()) as channel:
        watched = Watched(channel, pb.TOPIC_EVENTS)
        await stand.generation()
        await watched.until(lambda: [one for one in watched.of("event") if one.HasField("event")])
        last = watched.of("event")[-1]
        await watched.close()
        resumed = Watched(
            channel, pb.TOPIC_EVENTS, after_event=last.sequence, event_log_id=last.log_id
        )
        await stand.models()
        await resumed.until(lambda: [one for one in resumed.of("event") if one.HasField("event")])
        first = next(one for one in resumed.of("event") if one.HasField("event"))
        assert first.sequence == last.sequence + 1
        assert not any(one.HasField("gap") for one in resumed.of("event"))
        await resumed.close()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"topics": []}, "topics"),
        ({"topics": [0]}, "topics[0]"),
        ({"topics": [99]}, "topics[0]"),
        ({"topics": [1, 1]}, "topics[1]"),
        ({"topics": [1], "interval_ms": 199}, "interval_ms"),
        ({"topics": [1], "interval_ms": 60_001}, "interval_ms"),
        ({"topics": [1], "event_log_id": "x" * 65}, "event_log_id"),
    ],
)
async def test_an_illegal_watch_is_refused(stand: Any, fields: dict[str, Any], field: str) -> None:
    async with channel_to(await stand.gateway()) as channel:
        with pytest.raises(InvalidArgument) as caught:
            async for _ in LiveServiceStub(channel).Watch(pb.WatchRequest(**fields)):
                pass
    assert caught.value.field == field


async def test_the_gateway_tells_of_itself(stand: Any) -> None:
    await stand.announced_server("runtime", "runtime-1")
    async with channel_to(await stand.gateway()) as channel:
        stub = SystemServiceStub(channel)
        system = await stub.GetSystem(system_pb2.GetSystemRequest())
        by_service = {one.service: one for one in system.processes}
        assert by_service["gateway"].details.resident_bytes > 10**6
        assert by_service["gateway"].details.tasks > 1
        # It serves nothing but its health: it is listed with why it told nothing.
        assert by_service["runtime"].failure.reason
        [host] = system.hosts
        assert host.memory_total_bytes > 0
        request = system_pb2.ListSettingsRequest(service="gateway", instance_id="gateway-1")
        settings = (await stub.ListSettings(request)).settings
        assert {one.name for one in settings} >= {"listen", "recent_requests", "log_level"}


async def test_an_unknown_process_is_not_found(stand: Any) -> None:
    async with channel_to(await stand.gateway()) as channel:
        stub = SystemServiceStub(channel)
        for service, instance_id in (("gateway", "gateway-9"), ("nothing", "gateway-1")):
            names: dict[str, Any] = {"service": service, "instance_id": instance_id}
            with pytest.raises(InstanceNotFound):
                await stub.ListSettings(system_pb2.ListSettingsRequest(**names))
            with pytest.raises(InstanceNotFound):
                await stub.DrainProcess(system_pb2.DrainProcessRequest(**names))
            with pytest.raises(InstanceNotFound):
                async for _ in stub.WatchLog(system_pb2.WatchLogRequest(**names)):
                    pass


async def test_a_process_can_be_asked_to_drain(stand: Any) -> None:
    async with stand.running_gateway() as (address, leaving), channel_to(address) as channel:
        request = system_pb2.DrainProcessRequest(service="gateway", instance_id="gateway-1")
        await SystemServiceStub(channel).DrainProcess(request)
        assert leaving.is_set()


async def test_topics_that_a_role_may_not_watch_are_named() -> None:
    servicer = servicer_for(Role.ROLE_CLIENT, _Contracts())
    topics = [pb.TOPIC_MESH, pb.TOPIC_EVENTS, pb.TOPIC_SYSTEM]
    with pytest.raises(PermissionDenied, match="may watch EVENTS, SYSTEM"):
        async for _ in servicer.Watch(pb.WatchRequest(topics=topics), None):
            pass


async def test_requests_of_others_are_for_administrators() -> None:
    request = pb.ListRequestsRequest(principal="user:eve")
    with pytest.raises(PermissionDenied):
        await servicer_for(Role.ROLE_CLIENT, _Contracts()).ListRequests(request, None)
    response = await servicer_for(Role.ROLE_ADMIN, _Contracts()).ListRequests(request, None)
    assert list(response.requests) == []


async def test_a_watch_ends_when_its_time_is_over() -> None:
    """So that its caller is authenticated again."""
    servicer = servicer_for(Role.ROLE_ADMIN, _Everything(), max_age_s=0.05)
    watch = servicer.Watch(pb.WatchRequest(topics=[pb.TOPIC_MESH]), None)
    async with asyncio.timeout(TIMEOUT_S):
        assert [one async for one in watch] == []


def servicer_for(role: Role.ValueType, authorizer: Authorizer, **options: Any) -> LiveServicer:
    """LiveService for a caller of this role, at a gateway without any source."""
    principal = Principal(kind=Kind.USER, identity="user:ada", role=role, host="127.0.0.1")
    return LiveServicer(
        dict.fromkeys(METHODS, _Silent()),
        MeshRequests(RequestLog(1), _no_processes(), gateway_id="gateway-1"),
        authorizer,
        current_principal=lambda: principal,
        **options,
    )


class _Silent:
    async def run(self, watcher: Watcher) -> None:
        await asyncio.Event().wait()


class _Everything:
    def is_open(self, method: str) -> bool:
        return True

    def authorize(self, method: str, principal: Principal) -> None: ...


class _Contracts:
    """The roles of the contracts, as with TLS."""

    def __init__(self) -> None:
        self._access = MethodAccess(services_of_port(), at_gateway=True)

    def is_open(self, method: str) -> bool:
        return self._access.is_open(method)

    def authorize(self, method: str, principal: Principal) -> None:
        identity = PeerIdentity(principal.identity, principal.role)
        self._access.check_identity(method, identity, lambda: principal.host)


def _no_processes() -> ProcessChannels:
    return ProcessChannels(InMemoryRegistry(), open_channel)
