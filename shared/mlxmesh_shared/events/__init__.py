"""Domain events: what happens in the mesh, told to every gateway by the process where it does."""

from mlxmesh_shared.events.bus import EventBus, Publish, unheard
from mlxmesh_shared.events.delivery import Delivery
from mlxmesh_shared.events.event import event_facts, event_of, name_of
from mlxmesh_shared.events.filter import EventFilter
from mlxmesh_shared.events.log import Batch, EventLog
from mlxmesh_shared.events.publishing import publishing, tell_changes

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
