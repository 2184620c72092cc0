"""LiveService: check, call, reply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from typing import Any

from mlxmesh.telemetry.v1 import live_pb2 as pb
from mlxmesh.telemetry.v1.live_pb2_grpc import LiveServiceServicer
from mlxmesh_gateway.door.entrance import Authorizer
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.live.convert import page, principal_of
from mlxmesh_gateway.live.mailbox import Mailbox
from mlxmesh_gateway.live.requests import MeshRequests
from mlxmesh_gateway.live.sources import Source, Watcher
from mlxmesh_shared.errors import InvalidArgument, MethodNotFound, PermissionDenied, Unauthenticated

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["LiveService"].full_name
DEFAULT_INTERVAL_MS = 1000
MIN_INTERVAL_MS = 200
MAX_AGE_S = 900.0
MAX_RECORDS = 500
"""Requests or jobs in one message."""
_TELEMETRY = "/mlxmesh.telemetry.v1"
METHODS: Mapping[int, str] = {
    pb.TOPIC_MESH: f"{_TELEMETRY}.TelemetryService/GetMeshStatus",
    pb.TOPIC_MODELS: "/mlxmesh.model.v1.ModelService/WatchModels",
    pb.TOPIC_EVENTS: f"{_TELEMETRY}.TelemetryService/WatchEvents",
    pb.TOPIC_REQUESTS: f"{_TELEMETRY}.LiveService/ListRequests",
    pb.TOPIC_JOBS: "/mlxmesh.job.v1.JobService/WatchJobs",
    pb.TOPIC_DOWNLOADS: "/mlxmesh.model.v1.HubService/WatchDownloads",
    pb.TOPIC_SYSTEM: f"{_TELEMETRY}.SystemService/GetSystem",
}
"""Who may call a topic's method may watch the topic."""
_PACED = frozenset((pb.TOPIC_MESH, pb.TOPIC_REQUESTS, pb.TOPIC_JOBS, pb.TOPIC_SYSTEM))


class LiveServicer(LiveServiceServicer):
    """Requests have passed the contract's rules."""

    def __init__(
        self,
        sources: Mapping[int, Source],
        requests: MeshRequests,
        authorizer: Authorizer,
        *,
        current_principal: Callable[[], Principal],
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        """max_age_s: of a watch; its caller watches again, and is authenticated again."""
        self._max_age_s = max_age_s
        self._sources = sources
        self._requests = requests
        self._authorizer = authorizer
        self._current_principal = current_principal

    async def Watch(
        self, request: pb.WatchRequest, context: Any
    ) -> AsyncGenerator[pb.WatchResponse]:
        principal = self._current_principal()
        _check(request)
        self._authorize(request.topics, principal)
        interval_s = (request.interval_ms or DEFAULT_INTERVAL_MS) / 1000
        box: Mailbox[int] = Mailbox(interval_s, paced=_PACED)
        watcher = Watcher(principal=principal, request=request, interval_s=interval_s, box=box)
        tasks = [
            asyncio.create_task(self._sources[topic].run(watcher), name=f"watch-{topic}")
            for topic in request.topics
        ]
        until_s = time.monotonic() + self._max_age_s
        try:
            while (found := await _next(box, tasks, until_s - time.monotonic())) is not None:
                for response in _responses(*found):
                    yield response
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def ListRequests(
        self, request: pb.ListRequestsRequest, context: Any
    ) -> pb.ListRequestsResponse:
        principal = self._current_principal()
        own = principal_of(principal.id)
        if request.principal not in ("", own) and not principal.is_admin:
            raise PermissionDenied("only administrators may list the requests of others")
        found = await self._requests.all()
        return page(found, request, owner="" if principal.is_admin else principal.id)

    async def ReadRequests(
        self, request: pb.ReadRequestsRequest, context: Any
    ) -> pb.ReadRequestsResponse:
        return self._requests.own(request)

    def _authorize(self, topics: Iterable[int], principal: Principal) -> None:
        """Raises: PermissionDenied, which names the topics that the caller may not watch."""
        denied = [one for one in topics if not self._may(METHODS[one], principal)]
        if denied:
            names = ", ".join(
                pb.Topic.Name(pb.Topic.ValueType(one)).removeprefix("TOPIC_") for one in denied
            )
            raise PermissionDenied(f"only administrators may watch {names}", field="topics")

    def _may(self, method: str, principal: Principal) -> bool:
        try:
            self._authorizer.authorize(method, principal)
        except (PermissionDenied, Unauthenticated):
            return False
        except MethodNotFound:
            return principal.is_admin
        return True


async def _next(
    box: Mailbox[int], tasks: list[asyncio.Task[None]], timeout_s: float
) -> tuple[int, list[Any]] | None:
    """What is to be sent next; None when the time is over.

    Raises: the error of a source, which never ends otherwise.
    """
    taking = asyncio.create_task(box.take())
    try:
        await asyncio.wait(
            (taking, *tasks), timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED
        )
        for task in tasks:
            if task.done():
                task.result()
        return taking.result() if taking.done() else None
    finally:
        taking.cancel()


def _check(request: pb.WatchRequest) -> None:
    """Checks what the contract's rules cannot express. Raises: InvalidArgument."""
    for index, topic in enumerate(request.topics):
        if topic not in METHODS:
            raise InvalidArgument("there is no such topic", field=f"topics[{index}]")
        if topic in request.topics[:index]:
            raise InvalidArgument("each topic may be named once", field=f"topics[{index}]")
    if 0 < request.interval_ms < MIN_INTERVAL_MS:
        raise InvalidArgument(
            f"interval_ms must be 0 or at least {MIN_INTERVAL_MS}", field="interval_ms"
        )


def _responses(topic: int, items: list[Any]) -> Iterator[pb.WatchResponse]:
    """Requests and jobs go together, other items as they are."""
    together: list[Any] = []
    for item in items:
        if isinstance(item, pb.WatchResponse):
            yield from _joined(topic, together)
            together = []
            yield item
        elif isinstance(item, pb.JobsChange):
            yield pb.WatchResponse(jobs=item)
        else:
            together.append(item)
    yield from _joined(topic, together)


def _joined(topic: int, records: list[Any]) -> Iterator[pb.WatchResponse]:
    for start in range(0, len(records), MAX_RECORDS):
        part = records[start : start + MAX_RECORDS]
        if topic == pb.TOPIC_JOBS:
            yield pb.WatchResponse(jobs=pb.JobsChange(jobs=part))
        else:
            yield pb.WatchResponse(requests=pb.RequestsChange(requests=part))
