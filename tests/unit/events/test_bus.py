"""The bus of a process: whatever a hook does, publishing goes on."""

import logging

import pytest

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.telemetry.v1.events_pb2 import EngineReady, Event, ModelLoaded
from mlxmesh_shared.events import EventBus, EventFilter, discard_event


def bus() -> EventBus:
    return EventBus(service="model", instance_id="model-1")


def test_every_hook_hears_what_it_wants_in_order() -> None:
    one, every, models = bus(), list[Event](), list[Event]()
    one.subscribe(every.append)
    one.subscribe(models.append, EventFilter(names=["model.*"]))
    one.publish(ModelLoaded(model="pocket", version=1), "pocket@1")
    one.publish(EngineReady(engine_id="e"), "e")
    assert [event.name for event in every] == ["model.loaded", "engine.ready"]
    assert [event.model_loaded.model for event in models] == ["pocket"]
    assert every[0].correlation_id == "pocket@1"


def test_a_hook_that_fails_is_counted_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    one, heard = bus(), list[Event]()

    def fails(event: Event) -> None:
        raise ValueError("a hook's own trouble")

    one.subscribe(fails)
    one.subscribe(heard.append)
    with caplog.at_level(logging.ERROR):
        one.publish(ModelLoaded())
    assert (one.failures, len(heard)) == (1, 1)
    assert "model.loaded" in caplog.text


def test_what_is_no_event_is_counted_and_raises_nothing() -> None:
    one = bus()
    one.publish(Failure(message="no event has this payload"))
    discard_event(Failure())
    assert one.failures == 1
