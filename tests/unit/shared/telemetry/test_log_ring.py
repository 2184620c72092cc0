"""The log records in memory: bounded in number and bytes, and followed."""

import asyncio
import logging
from contextlib import aclosing
from typing import Any

from mlxmesh_shared.telemetry.log_ring import LogRing, RecordBatch, level_name


def logger_to(ring: LogRing) -> logging.Logger:
    logger = logging.Logger("test", logging.DEBUG)
    logger.addHandler(ring)
    return logger


def messages(ring: LogRing, count: int = 100, level: int = 0) -> list[str]:
    return [one.message for one in ring.tail(count, level)]


def test_it_keeps_the_last_records() -> None:
    ring = LogRing(max_records=3)
    logger = logger_to(ring)
    for number in range(5):
        logger.info("record %d", number)
    assert messages(ring) == ["record 2", "record 3", "record 4"]
    assert messages(ring, 2) == ["record 3", "record 4"]
    assert [one.sequence for one in ring.tail(9, 0)] == [3, 4, 5]


def test_it_is_bounded_in_bytes() -> None:
    ring = LogRing(max_bytes=20_000)
    logger = logger_to(ring)
    for _ in range(50):
        logger.info("x" * 100_000)
    kept = ring.tail(100, 0)
    assert 0 < len(kept) < 10
    assert max(len(one.message) for one in kept) == 4096


def test_a_level_leaves_the_lower_ones_out() -> None:
    ring = LogRing()
    logger = logger_to(ring)
    logger.debug("a")
    logger.warning("b")
    logger.error("c")
    assert messages(ring, level=logging.WARNING) == ["b", "c"]
    assert [level_name(one.level) for one in ring.tail(9, 0)] == ["debug", "warning", "error"]


def test_fields_and_errors_are_text() -> None:
    ring = LogRing()
    try:
        raise ValueError("broken")
    except ValueError:
        logger_to(ring).exception("failed", extra={"fields": {"count": 3}, "trace_id": "ab"})
    [record] = ring.tail(1, 0)
    assert (record.fields["count"], record.trace_id) == ("3", "ab")
    assert "ValueError: broken" in record.fields["error"]


def test_a_record_that_cannot_be_formatted_harms_nobody(capsys: Any) -> None:
    ring = LogRing()
    logger_to(ring).info("%d", "no number")
    assert messages(ring) == []
    assert "Logging error" in capsys.readouterr().err


async def _next(batches: Any) -> RecordBatch:
    async with asyncio.timeout(30):
        return await anext(batches)


async def test_a_follower_gets_records_of_other_threads() -> None:
    ring = LogRing()
    logger = logger_to(ring)
    logger.info("before")
    async with aclosing(ring.follow(ring.newest, 0)) as batches:
        following = asyncio.create_task(_next(batches))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(logger.info, "after")
        batch = await following
    assert [one.message for one in batch.records] == ["after"]
    assert batch.dropped == 0


async def test_a_slow_follower_is_told_what_it_missed() -> None:
    ring = LogRing(max_records=2)
    logger = logger_to(ring)
    async with aclosing(ring.follow(0, 0)) as batches:
        logger.info("0")
        await _next(batches)
        for number in range(1, 6):
            logger.info("%d", number)
        batch = await _next(batches)
    assert [one.message for one in batch.records] == ["4", "5"]
    assert batch.dropped == 3
