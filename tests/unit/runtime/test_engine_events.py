"""Which changes of an engine are events, over whole lifecycles."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mlxmesh_runtime.convert import engine_event_to
from mlxmesh_runtime.engine_record import EngineFailure, EngineRecord, EngineSpec, FailureReason
from mlxmesh_runtime.lifecycle import EngineState

SPEC = EngineSpec(engine_id="e-1", model="pocket", model_version=2, model_dir=Path("/m"))
NEW = EngineRecord(spec=SPEC, state=EngineState.STARTING)
KILLED = EngineFailure(FailureReason.CRASHED, "the engine process was killed by signal 9")

STARTED = {"pid": 7}
READY = {"state": EngineState.READY, "address": "127.0.0.1:1"}
CRASHED = {"state": EngineState.BACKOFF, "address": "", "pid": 0, "last_failure": KILLED}
AGAIN = {"state": EngineState.STARTING, "restarts": 1}


def life(*steps: dict[str, Any]) -> list[Any]:
    """The events of a record that changes step by step."""
    events = [engine_event_to(None, NEW)]
    before = NEW
    for step in steps:
        after = replace(before, **step)
        events.append(engine_event_to(before, after))
        before = after
    return [event for event in events if event is not None]


def names(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_a_crash_and_a_restart() -> None:
    events = life(STARTED, READY, CRASHED, AGAIN, STARTED, READY)
    assert names(events) == [
        "EngineStarted", "EngineReady", "EngineCrashed", "EngineStarted", "EngineReady",
    ]  # fmt: skip
    assert {(one.engine_id, one.model, one.model_version) for one in events} == {
        ("e-1", "pocket", 2)
    }
    crashed, again = events[2], events[3]
    assert (crashed.failure.reason, crashed.failure.message) == (KILLED.reason, KILLED.message)
    assert (crashed.restarts, again.restarts, again.pid) == (0, 1, 7)
    assert events[1].address == "127.0.0.1:1"


def test_an_engine_that_goes_down_too_often() -> None:
    events = life(STARTED, CRASHED, {"state": EngineState.FAILED})
    assert names(events) == ["EngineStarted", "EngineCrashed", "EngineFailed"]
    assert events[2].failure.reason == "ENGINE_CRASHED"


def test_an_engine_that_is_stopped() -> None:
    draining = {"state": EngineState.DRAINING}
    stopped = {"state": EngineState.STOPPED, "address": "", "pid": 0}
    assert names(life(STARTED, READY, draining, stopped))[2:] == ["EngineStopped"]


def test_an_engine_that_drains_is_replaced() -> None:
    draining = {"state": EngineState.DRAINING}
    gone = {"state": EngineState.DRAINING, "address": "", "pid": 0}
    events = life(STARTED, READY, draining, gone, AGAIN, STARTED)
    assert names(events)[2:] == ["EngineDrained", "EngineStarted"]
