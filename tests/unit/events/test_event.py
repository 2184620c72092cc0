"""The contract's oneof is the one list of events: names and payloads follow from it."""

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.telemetry.v1.events_pb2 import (
    Event,
    ModelLoaded,
    ModelLoadFailed,
    PublishEventsRequest,
)
from mlxmesh_shared.events import EventFilter, event_name, event_payload, make_event
from mlxmesh_shared.events.bus import PAYLOAD
from mlxmesh_shared.rules import Validator

VALIDATOR = Validator([PublishEventsRequest.DESCRIPTOR])


def field_name(field: FieldDescriptor) -> str:
    return field.name


def made(payload: object, correlation_id: str = "") -> Event:
    return make_event(
        payload,  # pyright: ignore[reportArgumentType]
        service="model",
        instance_id="model-1",
        correlation_id=correlation_id,
    )


@pytest.mark.parametrize("field", list(PAYLOAD.fields), ids=field_name)
def test_every_payload_makes_a_legal_event_of_its_own_name(field: FieldDescriptor) -> None:
    assert field.message_type is not None
    payload = GetMessageClass(field.message_type)()
    event = made(payload)
    area, _, action = event.name.partition(".")
    assert f"{area}_{action}" == field.name == event.WhichOneof("payload")
    assert event_payload(event) == payload
    VALIDATOR.check(PublishEventsRequest(events=[event]))


def test_no_two_events_share_a_payload() -> None:
    types = [field.message_type.full_name for field in PAYLOAD.fields if field.message_type]
    assert len(set(types)) == len(PAYLOAD.fields) == len(types)


def test_an_event_says_when_and_where_and_is_unlike_any_other() -> None:
    one, other = (made(ModelLoaded(model="pocket", version=1), "pocket@1") for _ in range(2))
    assert (one.service, one.instance_id, one.correlation_id) == ("model", "model-1", "pocket@1")
    assert one.event_id != other.event_id
    assert 0 <= other.time.ToNanoseconds() - one.time.ToNanoseconds() < 60e9


def test_what_is_no_payload_makes_no_event() -> None:
    with pytest.raises(KeyError):
        event_name(Failure())


def test_a_newer_publishers_event_has_a_name_and_no_facts() -> None:
    event = Event(event_id="e", name="experiment.started", service="model", instance_id="m")
    event.time.FromSeconds(1)
    VALIDATOR.check(PublishEventsRequest(events=[event]))
    assert event_payload(event) is None


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (EventFilter(), True),
        (EventFilter(names=["model.load_failed"]), True),
        (EventFilter(names=["engine.ready", "model.*"]), True),
        (EventFilter(names=["model.load"]), False),
        (EventFilter(names=["mod.*", "engine.*"]), False),
        (EventFilter(services=["model"]), True),
        (EventFilter(services=["runtime"]), False),
        (EventFilter(correlation_id="pocket@1"), True),
        (EventFilter(correlation_id="pocket"), False),
        (EventFilter(["model.*"], ["model"], "pocket@2"), False),
    ],
)
def test_a_filter_passes_what_is_all_that_it_asks_for(wanted: EventFilter, passes: bool) -> None:
    event = made(ModelLoadFailed(model="pocket", version=1), "pocket@1")
    assert wanted.passes(event) is passes
