"""The port for exported telemetry, and the bounded queue in front of it."""

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class TelemetrySink(Protocol):
    """Receives OTLP messages. Raises: MeshError for a message that it cannot accept."""

    async def traces(self, request: ExportTraceServiceRequest) -> None: ...
    async def metrics(self, request: ExportMetricsServiceRequest) -> None: ...
    async def logs(self, request: ExportLogsServiceRequest) -> None: ...


T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """First in, first out; an item that no longer fits is dropped and counted."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self.dropped = 0
        self.on_first: Callable[[], None] = lambda: None
        """Called for an item that is added to an empty queue, on the thread that adds it."""

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        if len(self._items) < self._capacity:
            self._items.append(item)
            if len(self._items) == 1:
                self.on_first()
        else:
            self.dropped += 1

    def pop(self, limit: int) -> list[T]:
        """Removes up to `limit` items, the oldest first."""
        return [self._items.popleft() for _ in range(min(limit, len(self._items)))]
