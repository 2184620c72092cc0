"""Events as people read them: one line, whatever the event is."""

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.telemetry.v1 import events_pb2 as wire
from mlxmesh_cli.screen.event_lines import event_line, gap_line
from mlxmesh_shared.events import make_event
from mlxmesh_shared.events.bus import PAYLOAD
from tests.illegal_values import is_map


def line(payload: Message, about: str = "") -> str:
    event = make_event(payload, service="model", instance_id="model-1", correlation_id=about)
    return event_line(event).plain.partition(" ")[2]


def test_a_line_tells_the_facts_that_its_subject_does_not_tell() -> None:
    loaded = wire.ModelLoaded(model="pocket", version=1, ready_replicas=1, desired_replicas=2)
    told = "model.loaded         pocket@1 ready_replicas=1 desired_replicas=2"
    assert line(loaded, "pocket@1") == told
    ready = wire.EngineReady(engine_id="e-1", model="pocket", address="127.0.0.1:1")
    assert line(ready, "e-1") == "engine.ready         e-1 model=pocket address=127.0.0.1:1"


def test_a_failure_is_told_in_words_and_settings_by_name() -> None:
    failure = Failure(code=13, reason="ENGINE_CRASHED", message="killed by signal 9")
    crashed = wire.EngineCrashed(engine_id="e-1", failure=failure)
    assert line(crashed, "e-1").endswith("e-1 ENGINE_CRASHED: killed by signal 9")
    changed = wire.ConfigChanged(settings={"b": "2", "a": "1"})
    assert line(changed).split() == ["config.changed", "a=1", "b=2"]
    invited = wire.HostInvited(invitation_id="i", services=["runtime", "gateway"])
    assert line(invited, "i").split() == ["host.invited", "i", "services=runtime,gateway"]


def filled(message: Message) -> Message:
    """The message with a value in each field of its own."""
    fields: Any = message.DESCRIPTOR.fields
    for field in fields:
        if is_map(field):
            getattr(message, field.name)["a"] = "b"
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
        else:
            value = "x" if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else 1
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
    return message


@pytest.mark.parametrize("field", list(PAYLOAD.fields), ids=lambda field: field.name)
def test_every_event_has_a_line(field: object) -> None:
    message_type = field.message_type  # pyright: ignore[reportAttributeAccessIssue]
    assert line(GetMessageClass(message_type)()).strip()
    assert line(filled(GetMessageClass(message_type)())).strip()


def test_what_a_terminal_would_obey_is_replaced() -> None:
    failure = Failure(reason="R", message="\x1b[2Jgone\nnext line")
    assert "\x1b" not in line(wire.EngineCrashed(failure=failure))
    assert line(wire.EngineCrashed(failure=failure)).endswith("?[2Jgone?next line")


def test_an_event_of_a_newer_mesh_shows_its_name() -> None:
    event = wire.Event(name="experiment.started", correlation_id="x")
    assert event_line(event).plain.split()[1:] == ["experiment.started", "x"]


def test_a_gap_is_told() -> None:
    assert "gateway changed" in gap_line(wire.Gap(reason=wire.GAP_REASON_LOG_MISMATCH)).plain
    lost = wire.Gap(reason=wire.GAP_REASON_EXPIRED, missing_events=7)
    assert "7 events" in gap_line(lost).plain
