"""Which events somebody wants. Pure."""

from collections.abc import Collection
from dataclasses import dataclass

from mlxmesh.telemetry.v1.events_pb2 import Event


@dataclass(frozen=True)
class EventFilter:
    """What an event must be to pass; an empty part lets all pass."""

    names: Collection[str] = ()
    """Each exact, or `area.*`."""
    services: Collection[str] = ()
    correlation_id: str = ""

    def passes(self, event: Event) -> bool:
        """Whether the event is wanted."""
        return (
            (not self.names or self._is_named(event.name))
            and (not self.services or event.service in self.services)
            and self.correlation_id in ("", event.correlation_id)
        )

    def _is_named(self, name: str) -> bool:
        return name in self.names or f"{name.partition('.')[0]}.*" in self.names
