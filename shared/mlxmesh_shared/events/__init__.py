"""Domain events: what happens in the mesh, told to every gateway by the process where it does."""

from mlxmesh_shared.events.bus import (
    EventBus,
    EventFilter,
    Publish,
    event_facts,
    event_of,
    name_of,
    unheard,
)
from mlxmesh_shared.events.delivery import Delivery, publishing, tell_changes
from mlxmesh_shared.events.log import Batch, EventLog

__all__ = [
    "Batch",
    "Delivery",
    "EventBus",
    "EventFilter",
    "EventLog",
    "Publish",
    "event_facts",
    "event_of",
    "name_of",
    "publishing",
    "tell_changes",
    "unheard",
]
