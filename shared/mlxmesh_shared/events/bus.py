"""The bus of one process: events in, every subscriber told at once."""

import logging
from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import Message

from mlxmesh.telemetry.v1.events_pb2 import Event
from mlxmesh_shared.events.event import event_of
from mlxmesh_shared.events.filter import EventFilter

_log = logging.getLogger(__name__)

Hook = Callable[[Event], None]
"""Told of an event; must return at once."""

EVERYTHING = EventFilter()


class Publish(Protocol):
    """What a domain module tells of an event with: its payload, and what it belongs to."""

    def __call__(self, payload: Message, correlation_id: str = "") -> None: ...


def unheard(payload: Message, correlation_id: str = "") -> None:
    """Satisfies Publish where nobody listens."""


class EventBus:
    """Publishing never waits and never fails: what a hook raises is logged and counted."""

    def __init__(self, *, service: str, instance_id: str) -> None:
        self._service = service
        self._instance_id = instance_id
        self._hooks: list[tuple[EventFilter, Hook]] = []
        self.failures = 0
        """Times that an event could not be made, or a hook failed on one."""

    def subscribe(self, hook: Hook, wanted: EventFilter = EVERYTHING) -> None:
        """Has `hook` told of every event from now on that passes the filter."""
        self._hooks.append((wanted, hook))

    def publish(self, payload: Message, correlation_id: str = "") -> None:
        """Tells of something that happened just now; satisfies Publish."""
        try:
            event = event_of(
                payload,
                service=self._service,
                instance_id=self._instance_id,
                correlation_id=correlation_id,
            )
        except Exception:  # noqa: BLE001 - whatever it is, the caller's work goes on
            self._failed(payload.DESCRIPTOR.name)
            return
        for wanted, hook in self._hooks:
            try:
                if wanted.passes(event):
                    hook(event)
            except Exception:  # noqa: BLE001 - likewise
                self._failed(event.name)

    def _failed(self, what: str) -> None:
        self.failures += 1
        _log.exception("an event could not be told: %s", what)
