"""Makes and publishes events; the oneof of the contract is the only list of their names."""

import logging
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import Message

from mlxmesh.telemetry.v1.events_pb2 import Event

PAYLOAD = Event.DESCRIPTOR.oneofs_by_name["payload"]
_FIELDS = {
    field.message_type.full_name: field.name
    for field in PAYLOAD.fields
    if field.message_type is not None
}


def event_name(payload: Message) -> str:
    """The name of the event with this payload, for example model.load_failed.

    Raises: KeyError when no event has such a payload.
    """
    return _FIELDS[payload.DESCRIPTOR.full_name].replace("_", ".", 1)


def make_event(
    payload: Message, *, service: str, instance_id: str, correlation_id: str = ""
) -> Event:
    """An event with the time of now. Raises: KeyError when no event has such a payload."""
    event = Event(
        event_id=secrets.token_hex(12),
        name=event_name(payload),
        service=service,
        instance_id=instance_id,
        correlation_id=correlation_id,
    )
    event.time.FromNanoseconds(time.time_ns())
    getattr(event, _FIELDS[payload.DESCRIPTOR.full_name]).CopyFrom(payload)
    return event


def event_payload(event: Event) -> Message | None:
    """The payload of an event; None for one that this version of the contract does not know."""
    field = event.WhichOneof("payload")
    return None if field is None else getattr(event, field)


@dataclass(frozen=True)
class EventFilter:
    """Selects events; an empty field selects all."""

    names: Collection[str] = ()
    """Each exact, or `area.*`."""
    services: Collection[str] = ()
    correlation_id: str = ""

    def passes(self, event: Event) -> bool:
        """Whether the event is selected."""
        return (
            (not self.names or self._is_named(event.name))
            and (not self.services or event.service in self.services)
            and self.correlation_id in ("", event.correlation_id)
        )

    def _is_named(self, name: str) -> bool:
        return name in self.names or f"{name.partition('.')[0]}.*" in self.names


_log = logging.getLogger(__name__)

Hook = Callable[[Event], None]
"""Receives an event; must return at once."""

EVERYTHING = EventFilter()


class Publish(Protocol):
    """Publishes an event by its payload and the id of what it concerns."""

    def __call__(self, payload: Message, correlation_id: str = "") -> None: ...


def discard_event(payload: Message, correlation_id: str = "") -> None:
    """Satisfies Publish for modules that run without a bus."""


class EventBus:
    """Passes events to hooks. Never waits or fails: errors of hooks are logged and counted."""

    def __init__(self, *, service: str, instance_id: str) -> None:
        self._service = service
        self._instance_id = instance_id
        self._hooks: list[tuple[EventFilter, Hook]] = []
        self.failures = 0
        """How often an event could not be made or a hook failed."""

    def subscribe(self, hook: Hook, wanted: EventFilter = EVERYTHING) -> None:
        """Calls `hook` with every event from now on that passes the filter."""
        self._hooks.append((wanted, hook))

    def publish(self, payload: Message, correlation_id: str = "") -> None:
        """Publishes an event with the time of now; satisfies Publish."""
        try:
            event = make_event(
                payload,
                service=self._service,
                instance_id=self._instance_id,
                correlation_id=correlation_id,
            )
        except Exception:  # noqa: BLE001 - no error may stop the work of the caller
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
        _log.exception("an event could not be published: %s", what)
