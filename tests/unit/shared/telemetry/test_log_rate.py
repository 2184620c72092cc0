"""The bound on log records of one kind."""

import logging

from mlxmesh_shared.telemetry.logs import MAX_RECORDS, WINDOW_S, LogRate


def record(line: int, name: str = "asyncio") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "there.py", line, "failed", (), None)


def test_one_place_is_bounded_and_says_how_many_were_left_out() -> None:
    now_s = 0.0
    rate = LogRate(clock=lambda: now_s)

    assert sum(rate.filter(record(1)) for _ in range(1000)) == MAX_RECORDS
    assert rate.filter(record(2)), "another place has records of its own"

    now_s = WINDOW_S
    first, second = record(1), record(1)
    assert rate.filter(first)
    assert rate.filter(second)
    assert vars(first)["fields"] == {"records_suppressed": 1000 - MAX_RECORDS}
    assert "fields" not in vars(second)


def test_calls_are_recorded_always() -> None:
    rate = LogRate(clock=lambda: 0.0)
    assert all(rate.filter(record(1, "mlxmesh.access")) for _ in range(1000))
