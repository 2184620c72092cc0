"""Events made from their payloads: the contract's oneof is the one list of names."""

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


def name_of(payload: Message) -> str:
    """The name of the event that has this payload, for example model.load_failed.

    Raises: KeyError when no event has such a payload.
    """
    return _FIELDS[payload.DESCRIPTOR.full_name].replace("_", ".", 1)


def event_of(
    payload: Message, *, service: str, instance_id: str, correlation_id: str = ""
) -> Event:
    """An event that happens now. Raises: KeyError when no event has such a payload."""
    event = Event(
        event_id=secrets.token_hex(12),
        name=name_of(payload),
        service=service,
        instance_id=instance_id,
        correlation_id=correlation_id,
    )
    event.time.FromNanoseconds(time.time_ns())
    getattr(event, _FIELDS[payload.DESCRIPTOR.full_name]).CopyFrom(payload)
    return event


def event_facts(event: Event) -> Message | None:
    """Its payload; None for one that this version of the contract does not know."""
    field = event.WhichOneof("payload")
    return None if field is None else getattr(event, field)


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
