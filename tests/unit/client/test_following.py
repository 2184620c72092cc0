"""A watch that goes on: over losses of its gateway, with every event once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from mlxmesh.telemetry.v1 import events_pb2 as wire
from mlxmesh_client.following import follow
from mlxmesh_shared.errors import DeadlineExceeded, MeshError, PermissionDenied, ServiceUnavailable

LOST = ServiceUnavailable("lost")


def event(number: int, log_id: str = "a") -> wire.WatchEventsResponse:
    told = wire.Event(event_id=f"e-{number}", sequence=number)
    return wire.WatchEventsResponse(log_id=log_id, sequence=number, event=told)


def gap(log_id: str) -> wire.WatchEventsResponse:
    lost = wire.Gap(reason=wire.GAP_REASON_LOG_MISMATCH)
    return wire.WatchEventsResponse(log_id=log_id, sequence=0, gap=lost)


class Script:
    """Watches that give what they are told to, one after another; the last one goes on."""

    def __init__(self, *watches: list[Any]) -> None:
        self.watches = list(watches)
        self.asked: list[tuple[int | None, str]] = []
        self.lost: list[MeshError] = []

    async def open(
        self, after_sequence: int | None, log_id: str
    ) -> AsyncGenerator[wire.WatchEventsResponse]:
        self.asked.append((after_sequence, log_id))
        for each in self.watches.pop(0):
            if isinstance(each, MeshError):
                raise each
            yield each
        await asyncio.Event().wait()

    async def take(self, count: int, after_sequence: int | None = None) -> list[str]:
        news = follow(self.open, after_sequence, on_lost=self.lost.append, pause_s=0)
        async with asyncio.timeout(30), aclosing(news):
            return [(await anext(news)).event.event_id or "gap" for _ in range(count)]


async def test_it_goes_on_after_the_last_message_of_the_same_log() -> None:
    script = Script([event(1), event(2), LOST], [LOST], [event(3)])
    assert await script.take(3) == ["e-1", "e-2", "e-3"]
    assert script.asked == [(None, ""), (2, "a"), (2, "a")]
    assert script.lost == [LOST, LOST]


async def test_another_log_tells_a_gap_and_what_is_known_already_is_left_out() -> None:
    script = Script([event(1), event(2), LOST], [gap("b"), event(2, "b"), event(3, "b"), LOST], [])
    assert await script.take(4) == ["e-1", "e-2", "gap", "e-3"]
    assert script.asked[1] == (2, "a")


async def test_it_begins_where_it_was_asked_to() -> None:
    script = Script([event(8)])
    assert await script.take(1, after_sequence=7) == ["e-8"]
    assert script.asked == [(7, "")]


async def test_the_clients_own_limit_for_a_call_is_no_loss() -> None:
    script = Script([event(1), DeadlineExceeded("30 s are over")], [event(2)])
    assert await script.take(2) == ["e-1", "e-2"]
    assert script.lost == []


async def test_what_is_no_loss_ends_it() -> None:
    script = Script([PermissionDenied("no")])
    with pytest.raises(PermissionDenied):
        await script.take(1)
    assert script.lost == []
