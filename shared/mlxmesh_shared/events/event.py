"""Events made from their payloads: the contract's oneof is the one list of names."""

import secrets
import time

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
