"""What a gateway tells itself: who came and went, and that it refuses calls."""

from typing import Any

from mlxmesh_gateway.events.instance_events import changes
from mlxmesh_gateway.events.overload import PAUSE_S, OverloadEvents
from mlxmesh_shared.registry import Instance


def instance(name: str, *, port: int = 1, pid: int = 1) -> Instance:
    return Instance("engine", name, f"127.0.0.1:{port}", pid=pid)


def told(before: list[Instance], now: list[Instance]) -> list[tuple[str, str]]:
    return [(type(event).__name__, event.instance_id) for event in changes(before, now)]


def test_who_comes_and_who_goes() -> None:
    a, b = instance("a"), instance("b")
    assert told([], [a, b]) == [("InstanceRegistered", "a"), ("InstanceRegistered", "b")]
    assert told([a, b], [b]) == [("InstanceDeregistered", "a")]
    assert told([a], [a]) == []


def test_one_that_was_started_again_left_and_came() -> None:
    expected = [("InstanceDeregistered", "a"), ("InstanceRegistered", "a")]
    assert told([instance("a", port=1)], [instance("a", port=2)]) == expected
    assert told([instance("a", pid=1)], [instance("a", pid=2)]) == expected


def test_one_that_is_about_to_leave_says_so_once() -> None:
    a = instance("a")
    assert told([a], [a.as_draining()]) == [("InstanceDraining", "a")]
    assert told([a.as_draining()], [a.as_draining()]) == []
    assert told([], [a.as_draining()]) == [("InstanceRegistered", "a"), ("InstanceDraining", "a")]


def test_many_refusals_are_few_events() -> None:
    events: list[tuple[int, int, str]] = []
    now_s = 0.0

    def publish(payload: Any, correlation_id: str = "") -> None:
        events.append((payload.refused, payload.running, correlation_id))

    overload = OverloadEvents(publish, instance_id="gateway-1", now_s=lambda: now_s)
    for _ in range(5):
        overload.refused(10)
    assert events == [(1, 10, "gateway-1")]
    now_s = PAUSE_S
    overload.refused(11)
    assert events[1:] == [(5, 11, "gateway-1")]
