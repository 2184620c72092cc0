"""A lane to a sink: bounded, patient, and never in anybody's way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from mlxmesh_gateway.otlp.lane import Lane, LaneOptions
from mlxmesh_gateway.otlp.selection import Selection
from mlxmesh_shared.errors import InvalidArgument, ServiceUnavailable
from tests.fakes.telemetry import RecordingSink, span, traces

QUICK = LaneOptions(backoff_min_s=0.001, backoff_max_s=0.002, attempts=3)


@asynccontextmanager
async def running(sink: RecordingSink, options: LaneOptions = QUICK) -> AsyncGenerator[Lane]:
    lane = Lane("test", sink, Selection(("traces",)), options)
    task = asyncio.create_task(lane.run())
    try:
        yield lane
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_offered_arrives_in_order() -> None:
    sink = RecordingSink()
    async with running(sink) as lane:
        requests = [traces(span(number)) for number in range(1, 4)]
        for request in requests:
            lane.offer("traces", request)
        await lane.wait_idle()
        assert sink.taken == requests
        assert (lane.status.sent_items, lane.status.dropped_items) == (3, 0)
        assert lane.status.queued_bytes == 0


async def test_a_sink_that_hangs_costs_only_what_does_not_fit() -> None:
    sink = RecordingSink()
    sink.open.clear()
    request = traces(span(1), span(2))
    room = LaneOptions(queue_bytes=3 * request.ByteSize())
    async with running(sink, room) as lane:
        for _ in range(5):
            lane.offer("traces", request)
        assert lane.status.queued_bytes == 3 * request.ByteSize()
        assert lane.status.dropped_items == 4
        sink.open.set()
        await lane.wait_idle()
        assert lane.status.sent_items == 6


async def test_a_sink_that_comes_back_misses_nothing() -> None:
    sink = RecordingSink()
    sink.obstacles = [ServiceUnavailable("away"), OSError("disk full")]
    async with running(sink) as lane:
        lane.offer("traces", traces(span(1)))
        await lane.wait_idle()
        assert (lane.status.sent_items, lane.status.failure_reason) == (1, "")


async def test_one_that_does_not_loses_what_waited_too_long_and_says_why() -> None:
    sink = RecordingSink()
    sink.obstacles = [ServiceUnavailable("away")] * QUICK.attempts
    async with running(sink) as lane:
        lane.offer("traces", traces(span(1)))
        lane.offer("traces", traces(span(2)))
        await lane.wait_idle()
        assert (lane.status.sent_items, lane.status.dropped_items) == (1, 1)
        assert len(sink.taken) == 1


async def test_a_try_that_takes_too_long_is_given_up() -> None:
    sink = RecordingSink()
    sink.open.clear()
    options = LaneOptions(send_timeout_s=0.01, attempts=2, backoff_min_s=0.001, backoff_max_s=0.001)
    async with running(sink, options) as lane:
        lane.offer("traces", traces(span(1)))
        await lane.wait_idle()
        assert lane.status.dropped_items == 1
        assert lane.status.failure_reason == "TimeoutError"


@pytest.mark.parametrize("obstacle", [InvalidArgument("not this"), ValueError("a canary")])
async def test_what_can_never_go_well_is_not_tried_again(
    obstacle: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sink = RecordingSink()
    sink.obstacles = [obstacle]
    async with running(sink) as lane:
        with caplog.at_level(logging.WARNING):
            lane.offer("traces", traces(span(1)))
            lane.offer("traces", traces(span(2)))
            await lane.wait_idle()
        assert (lane.status.sent_items, lane.status.dropped_items) == (1, 1)
    assert "canary" not in caplog.text


async def test_losses_are_told_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    lane = Lane(
        "test", RecordingSink(), Selection(("traces",)), LaneOptions(queue_bytes=1),
        clock=lambda: now_s,
    )  # fmt: skip
    for moment_s in (0.0, 1.0, 59.0, 61.0, 62.0):
        now_s = moment_s
        lane.offer("traces", traces(span(1)))
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 2
    assert lane.status.dropped_items == 5
