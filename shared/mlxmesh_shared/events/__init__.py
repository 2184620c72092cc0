"""Domain events, which each process publishes to every gateway."""

from mlxmesh_shared.events.bus import (
    EventBus,
    EventFilter,
    Publish,
    discard_event,
    event_name,
    event_payload,
    make_event,
)
from mlxmesh_shared.events.delivery import EventDelivery, publish_changes, publishing
from mlxmesh_shared.events.log import Batch, EventLog

__all__ = [
    "Batch",
    "EventBus",
    "EventDelivery",
    "EventFilter",
    "EventLog",
    "Publish",
    "discard_event",
    "event_name",
    "event_payload",
    "make_event",
    "publish_changes",
    "publishing",
]
