"""Where each topic of a watch comes from."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from google.protobuf.message import Message

from mlxmesh.job.v1 import job_pb2
from mlxmesh.model.v1 import hub_pb2, model_pb2
from mlxmesh.telemetry.v1 import events_pb2, system_pb2, telemetry_pb2
from mlxmesh.telemetry.v1 import live_pb2 as pb
from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.events.event_log import GatewayEventLog
from mlxmesh_gateway.forwarding.routes import Route
from mlxmesh_gateway.live.convert import Owned, newest_first
from mlxmesh_gateway.live.mailbox import Mailbox
from mlxmesh_gateway.live.requests import MeshRequests
from mlxmesh_gateway.live.shared_poll import SharedPoll
from mlxmesh_shared.errors import MeshError, NotImplementedYet
from mlxmesh_shared.rpc.error_status import to_failure

RETRY_S = 1.0
"""How soon a topic whose service is away is tried again."""
NEWEST_REQUESTS = 200
_WHOLE = "whole"
_STATE = "state"

Box = Mailbox[int]
M = TypeVar("M", bound=Message)


class ServesCalls(Protocol):
    """The door."""

    async def serve(self, call: PublicCall) -> bytes | None:
        """As of Door."""
        ...


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """One call of Watch."""

    principal: Principal
    request: pb.WatchRequest
    interval_s: float
    box: Box

    def synced(self, topic: int) -> None:
        """The present state of a topic was sent."""
        state = pb.TopicState(topic=pb.Topic.ValueType(topic), synced=True)
        self.box.put(topic, _STATE, pb.WatchResponse(topic=state))

    def failed(self, topic: int, error: MeshError) -> None:
        """Nothing comes of a topic at present."""
        state = pb.TopicState(topic=pb.Topic.ValueType(topic), failure=to_failure(error))
        self.box.put(topic, _STATE, pb.WatchResponse(topic=state))


class Source(Protocol):
    """Fills the mailboxes of watchers with one topic."""

    async def run(self, watcher: Watcher) -> None:
        """Until it is cancelled."""
        ...


class Polled(Generic[M]):
    """A topic whose whole state is one message, sent when it has changed."""

    def __init__(
        self, topic: int, poll: SharedPoll[M], wrap: Callable[[M], pb.WatchResponse]
    ) -> None:
        self._topic = topic
        self._poll = poll
        self._wrap = wrap

    async def run(self, watcher: Watcher) -> None:
        last: M | None = None

        def on_value(value: M) -> None:
            nonlocal last
            before, last = last, value
            if value != before:
                watcher.box.put(self._topic, _WHOLE, self._wrap(value))
            if before is None:
                watcher.synced(self._topic)

        def on_failure(error: MeshError) -> None:
            nonlocal last
            last = None
            watcher.failed(self._topic, error)

        with self._poll.watched(watcher.interval_s, on_value, on_failure):
            await asyncio.Event().wait()


def mesh_source(poll: SharedPoll[telemetry_pb2.GetMeshStatusResponse]) -> Source:
    """The processes of the mesh."""
    return Polled(pb.TOPIC_MESH, poll, lambda value: pb.WatchResponse(mesh=value))


def system_source(poll: SharedPoll[system_pb2.GetSystemResponse]) -> Source:
    """Hosts and processes."""
    return Polled(pb.TOPIC_SYSTEM, poll, lambda value: pb.WatchResponse(system=value))


class Requests:
    """Recent requests: the newest, then those that began, went on or ended."""

    def __init__(self, requests: MeshRequests, poll: SharedPoll[list[Owned]]) -> None:
        self._requests = requests
        self._poll = poll

    async def run(self, watcher: Watcher) -> None:
        topic, principal = pb.TOPIC_REQUESTS, watcher.principal

        def mine(owned: Owned) -> bool:
            return principal.is_admin or owned[0] == principal.id

        def on_value(changes: list[Owned]) -> None:
            for _, record in filter(mine, changes):
                watcher.box.put(topic, record.id, record)

        def on_failure(error: MeshError) -> None:
            watcher.failed(topic, error)

        with self._poll.watched(watcher.interval_s, on_value, on_failure):
            found = [one for one in newest_first(await self._requests.all()) if mine(one)]
            for _, record in reversed(found[:NEWEST_REQUESTS]):
                watcher.box.put_older(topic, record.id, record)
            watcher.synced(topic)
            await asyncio.Event().wait()


class Events:
    """Events, each once and in order; a reader that is too slow gets a gap."""

    def __init__(self, log: GatewayEventLog) -> None:
        self._log = log

    async def run(self, watcher: Watcher) -> None:
        asked, topic = watcher.request, pb.TOPIC_EVENTS
        request = events_pb2.WatchEventsRequest(log_id=asked.event_log_id)
        if asked.after_event:
            request.after_sequence = asked.after_event
        is_synced = False
        async with aclosing(self._log.watch(request)) as events:
            async for event in events:
                await watcher.box.put_in_order(topic, pb.WatchResponse(event=event))
                if event.HasField("synced") and not is_synced:
                    is_synced = True
                    watcher.synced(topic)


class Relayed:
    """A topic that a service streams, asked for as the caller, again and again."""

    def __init__(
        self,
        topic: int,
        door: ServesCalls,
        route: Route | None,
        start: Callable[[Watcher], RelayedState],
    ) -> None:
        """route: of the streaming method; None if this mesh has none."""
        self._topic = topic
        self._door = door
        self._route = route
        self._start = start

    async def run(self, watcher: Watcher) -> None:
        state = self._start(watcher)
        reason = ""
        while True:
            begun = state.messages
            try:
                await self._stream(watcher, state)
            except MeshError as error:
                if state.messages > begun or error.reason != reason:
                    reason = error.reason
                    watcher.failed(self._topic, error)
            await asyncio.sleep(RETRY_S)

    async def _stream(self, watcher: Watcher, state: RelayedState) -> None:
        if self._route is None:
            raise NotImplementedYet("this mesh has no service of this topic")
        call = PublicCall(
            route=self._route,
            principal=watcher.principal,
            request=state.request().SerializeToString(),
            metadata=(),
            remaining_s=math.inf,
            write=state.write,
            metered=False,
        )
        await self._door.serve(call)


class RelayedState(Protocol):
    """What one watch knows of one relayed topic."""

    messages: int
    """Received so far."""

    def request(self) -> Message:
        """The request with which the stream begins, or goes on."""
        ...

    def write(self, encoded: bytes) -> Awaitable[None]:
        """Takes the next message."""
        ...


class ModelsState:
    """Models by name; what was removed while the service was away is found at the next sync."""

    def __init__(self, watcher: Watcher) -> None:
        self.messages = 0
        self._watcher = watcher
        self._sequence = 0

    def request(self) -> model_pb2.WatchModelsRequest:
        return model_pb2.WatchModelsRequest(after_sequence=self._sequence)

    async def write(self, encoded: bytes) -> None:
        self.messages += 1
        message = model_pb2.WatchModelsResponse.FromString(encoded)
        self._sequence = max(self._sequence, message.sequence)
        if message.HasField("synced"):
            self._watcher.synced(pb.TOPIC_MODELS)
            return
        name = message.model.name or message.removed_name
        self._watcher.box.put(pb.TOPIC_MODELS, name, pb.WatchResponse(model=message))


class DownloadsState:
    """Downloads by id."""

    def __init__(self, watcher: Watcher) -> None:
        self.messages = 0
        self._watcher = watcher

    def request(self) -> hub_pb2.WatchDownloadsRequest:
        self._is_first = True
        return hub_pb2.WatchDownloadsRequest()

    async def write(self, encoded: bytes) -> None:
        self.messages += 1
        topic, box = pb.TOPIC_DOWNLOADS, self._watcher.box
        message = hub_pb2.WatchDownloadsResponse.FromString(encoded)
        for download in message.downloads:
            one = hub_pb2.WatchDownloadsResponse(downloads=[download])
            box.put(topic, download.download_id, pb.WatchResponse(downloads=one))
        for removed_id in message.removed_ids:
            one = hub_pb2.WatchDownloadsResponse(removed_ids=[removed_id])
            box.put(topic, removed_id, pb.WatchResponse(downloads=one))
        if self._is_first:
            self._is_first = False
            self._watcher.synced(topic)


class JobsState:
    """Jobs by id."""

    def __init__(self, watcher: Watcher) -> None:
        self.messages = 0
        self._watcher = watcher
        self._change = 0

    def request(self) -> job_pb2.WatchJobsRequest:
        self._is_first = True
        interval_ms = min(60_000, max(100, round(self._watcher.interval_s * 1000)))
        return job_pb2.WatchJobsRequest(after_change=self._change, interval_ms=interval_ms)

    async def write(self, encoded: bytes) -> None:
        self.messages += 1
        topic, box = pb.TOPIC_JOBS, self._watcher.box
        message = job_pb2.WatchJobsResponse.FromString(encoded)
        self._change = message.change
        for job in message.jobs:
            box.put(topic, job.job_id, job)
        if message.more:
            box.put(topic, _WHOLE, pb.JobsChange(more=True))
        if self._is_first:
            self._is_first = False
            self._watcher.synced(topic)


RELAYED: Mapping[int, tuple[str, Callable[[Watcher], RelayedState]]] = {
    pb.TOPIC_MODELS: ("/mlxmesh.model.v1.ModelService/WatchModels", ModelsState),
    pb.TOPIC_DOWNLOADS: ("/mlxmesh.model.v1.HubService/WatchDownloads", DownloadsState),
    pb.TOPIC_JOBS: ("/mlxmesh.job.v1.JobService/WatchJobs", JobsState),
}
"""The topics that services stream, with their methods."""
