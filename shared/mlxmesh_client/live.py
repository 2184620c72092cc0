"""The client's methods for what happens in the mesh: live state, recent requests, hosts, logs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Literal

from grpc import aio

from mlxmesh.control.v1.process_pb2 import Setting
from mlxmesh.telemetry.v1 import live_pb2 as pb
from mlxmesh.telemetry.v1 import system_pb2
from mlxmesh.telemetry.v1.live_pb2_grpc import LiveServiceStub
from mlxmesh.telemetry.v1.system_pb2_grpc import SystemServiceStub
from mlxmesh_client.calls import Calls

Topic = Literal["mesh", "models", "events", "requests", "jobs", "downloads", "system"]
Level = Literal["", "debug", "info", "warning", "error"]


class LiveClient:
    """One method per RPC of LiveService and SystemService; `MeshClient.live` has it.

    async for news in mesh.live.watch({"requests"}):
        for request in news.requests.requests:
            print(request.model, request.completion_tokens)
    """

    def __init__(self, channel: aio.Channel, calls: Calls) -> None:
        self._live = LiveServiceStub(channel)
        self._system = SystemServiceStub(channel)
        self._calls = calls

    def watch(
        self,
        topics: Collection[Topic],
        *,
        interval_ms: int = 0,
        after_event: int = 0,
        event_log_id: str = "",
        timeout_s: float | None = None,
    ) -> AsyncGenerator[pb.WatchResponse]:
        """Yields the present state of the topics, then its changes, until the call ends."""
        request = pb.WatchRequest(
            topics=[pb.Topic.Value(f"TOPIC_{topic.upper()}") for topic in topics],
            interval_ms=interval_ms,
            after_event=after_event,
            event_log_id=event_log_id,
        )
        return self._calls.stream(self._live.Watch, request, timeout_s, safe=True)

    async def list_requests(
        self,
        *,
        model: str = "",
        principal: str = "",
        running: bool = False,
        failed_only: bool = False,
        request_id: str = "",
        page_size: int = 0,
        page_token: str = "",
        timeout_s: float | None = None,
    ) -> pb.ListRequestsResponse:
        """Returns a page of the recent requests, the newest first."""
        state = pb.REQUEST_STATE_RUNNING if running else pb.REQUEST_STATE_UNSPECIFIED
        request = pb.ListRequestsRequest(
            model=model,
            principal=principal,
            state=state,
            failed_only=failed_only,
            request_id=request_id,
            page_size=page_size,
            page_token=page_token,
        )
        return await self._calls.unary(self._live.ListRequests, request, timeout_s, safe=True)

    async def system(self, *, timeout_s: float | None = None) -> system_pb2.GetSystemResponse:
        """Returns the hosts and processes of the mesh."""
        request = system_pb2.GetSystemRequest()
        return await self._calls.unary(self._system.GetSystem, request, timeout_s, safe=True)

    async def settings(
        self, service: str, instance_id: str, *, timeout_s: float | None = None
    ) -> Sequence[Setting]:
        """Returns the settings of one process. Raises: InstanceNotFound."""
        request = system_pb2.ListSettingsRequest(service=service, instance_id=instance_id)
        call = self._system.ListSettings
        return (await self._calls.unary(call, request, timeout_s, safe=True)).settings

    async def drain(
        self, service: str, instance_id: str, *, timeout_s: float | None = None
    ) -> None:
        """Asks one process to shut down. Raises: InstanceNotFound."""
        request = system_pb2.DrainProcessRequest(service=service, instance_id=instance_id)
        await self._calls.unary(self._system.DrainProcess, request, timeout_s, safe=True)

    def log(
        self,
        service: str,
        instance_id: str,
        *,
        tail: int = 0,
        min_level: Level = "",
        follow: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[system_pb2.WatchLogResponse]:
        """Yields the last log records of one process, and new ones. Raises: InstanceNotFound."""
        request = system_pb2.WatchLogRequest(
            service=service,
            instance_id=instance_id,
            tail=tail,
            min_level=min_level,
            follow=follow,
        )
        return self._calls.stream(self._system.WatchLog, request, timeout_s, safe=True)
