"""The gateway's log: each event once, numbered, and never a silent gap for those who watch."""

import asyncio
from typing import Any

import pytest

from mlxmesh.telemetry.v1 import events_pb2 as wire
from mlxmesh_gateway.events.event_log import MAX_UNTOLD, GatewayEventLog


def filled(count: int, most_kept: int = 1000, name: str = "model.loaded") -> GatewayEventLog:
    log = GatewayEventLog(most_kept)
    add(log, *range(1, count + 1), name=name)
    return log


def add(log: GatewayEventLog, *ids: int, name: str = "model.loaded") -> None:
    log.add(wire.Event(event_id=str(each), name=name) for each in ids)


def shown(one: wire.WatchEventsResponse) -> Any:
    if one.HasField("event"):
        assert one.event.sequence == one.sequence
        return int(one.event.event_id)
    return "synced" if one.HasField("synced") else (one.gap.reason, one.gap.missing_events)


async def take(watch: Any, count: int) -> list[Any]:
    async with asyncio.timeout(30):
        return [shown(await anext(watch)) for _ in range(count)]


OTHER = (wire.GAP_REASON_LOG_MISMATCH, 0)


def gone(count: int) -> tuple[Any, int]:
    return (wire.GAP_REASON_EXPIRED, count)


@pytest.mark.parametrize(
    ("kept", "asked", "expected"),
    [
        (10, {}, [1, 2, 3, 4, "synced"]),
        (10, {"after_sequence": 0}, [1, 2, 3, 4, "synced"]),
        (10, {"after_sequence": 2}, [3, 4, "synced"]),
        (10, {"after_sequence": 4}, ["synced"]),
        (10, {"after_sequence": 5}, [OTHER, 1, 2, 3, 4, "synced"]),
        (10, {"after_sequence": 2**64 - 1}, [OTHER, 1, 2, 3, 4, "synced"]),
        (10, {"after_sequence": 2, "log_id": "another"}, [OTHER, 1, 2, 3, 4, "synced"]),
        (10, {"log_id": "another"}, [OTHER, 1, 2, 3, 4, "synced"]),
        (2, {}, [3, 4, "synced"]),
        (2, {"after_sequence": 0}, [gone(2), 3, 4, "synced"]),
        (2, {"after_sequence": 1}, [gone(1), 3, 4, "synced"]),
        (2, {"after_sequence": 2}, [3, 4, "synced"]),
    ],
)
async def test_a_watch_begins_where_it_was_asked_to_or_says_that_it_cannot(
    kept: int, asked: dict[str, Any], expected: list[Any]
) -> None:
    watch = filled(4, kept).watch(wire.WatchEventsRequest(**asked))
    assert await take(watch, len(expected)) == expected


async def test_a_watch_goes_on_from_what_a_message_told() -> None:
    log = filled(3)
    first = await anext(log.watch(wire.WatchEventsRequest()))
    add(log, 4)
    again = wire.WatchEventsRequest(after_sequence=first.sequence, log_id=first.log_id)
    assert await take(log.watch(again), 4) == [2, 3, 4, "synced"]


async def test_new_events_come_as_they_happen() -> None:
    log = filled(1)
    watch = log.watch(wire.WatchEventsRequest())
    assert await take(watch, 2) == [1, "synced"]
    add(log, 2, 3)
    assert await take(watch, 2) == [2, 3]


async def test_an_event_that_comes_twice_is_kept_once() -> None:
    log = filled(2)
    add(log, 1, 2, 3)
    assert log.events.newest == 3


async def test_a_watch_that_is_too_slow_is_told_what_it_missed() -> None:
    log = filled(2, most_kept=2)
    watch = log.watch(wire.WatchEventsRequest())
    assert await take(watch, 3) == [1, 2, "synced"]
    add(log, *range(3, 8))
    assert await take(watch, 3) == [gone(3), 6, 7]


async def test_an_empty_log_is_synced_at_once() -> None:
    assert await take(filled(0).watch(wire.WatchEventsRequest()), 1) == ["synced"]


async def test_only_what_was_asked_for_is_sent() -> None:
    log = filled(2)
    log.add([wire.Event(event_id="3", name="engine.ready", service="runtime")])
    log.add([wire.Event(event_id="4", name="model.loaded", correlation_id="pocket@1")])
    cases: list[tuple[dict[str, Any], list[Any]]] = [
        ({"names": ["engine.*"]}, [3, "synced"]),
        ({"services": ["runtime"]}, [3, "synced"]),
        ({"correlation_id": "pocket@1"}, [4, "synced"]),
        ({"names": ["model.loaded"], "services": ["engine"]}, ["synced"]),
    ]
    for asked, expected in cases:
        request = wire.WatchEventsRequest(**asked)
        assert await take(log.watch(request), len(expected)) == expected


async def test_a_watch_that_nothing_concerns_still_learns_how_far_it_is() -> None:
    log = filled(0)
    watch = log.watch(wire.WatchEventsRequest(names=["engine.*"]))
    assert await take(watch, 1) == ["synced"]
    add(log, *range(1, MAX_UNTOLD + 1))
    async with asyncio.timeout(30):
        assert (await anext(watch)).sequence == MAX_UNTOLD


async def test_what_is_known_is_bounded() -> None:
    log = GatewayEventLog(most_kept=2)
    add(log, *range(1, 6))
    add(log, 1)  # so old that nobody knows it any more
    assert log.events.newest == 6


def test_what_is_kept_is_a_copy_of_what_the_contract_knows() -> None:
    log = GatewayEventLog(10)
    request = wire.PublishEventsRequest(events=[wire.Event(event_id="1", name="model.loaded")])

    log.add(request.events)
    request.events[0].name = "changed"

    (batch,) = log.events._events
    assert batch.name == "model.loaded"
