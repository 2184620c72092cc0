"""Log records as text for a terminal."""

from __future__ import annotations

import io
import logging
import re

import pytest

from mlxmesh_cli.screen.logs import readable
from mlxmesh_shared.telemetry.logs import JsonFormatter


def as_written(message: str, **extra: object) -> str:
    """A line as services write it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter({"service": "gateway", "instance": "gateway-1"}))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning(message, extra=extra)
    return stream.getvalue().rstrip("\n")


def test_a_record_is_one_line_with_time_level_message_and_fields() -> None:
    line = as_written("call", model="pocket", fields={"code": "OK", "ms": 1.5})
    expected = r"\d\d:\d\d:\d\d\.\d{3} WARNING call model=pocket code=OK ms=1.5"
    assert re.fullmatch(expected, readable(line))


def test_a_traceback_follows_on_lines_of_its_own() -> None:
    line = '{"time": "2026-11-28T16:00:00.001+00:00", "message": "failed", "error": "Trace\\nlast"}'
    assert readable(line).endswith("failed\nTrace\nlast")


@pytest.mark.parametrize(
    "line",
    ["", "--- started ---", "{broken", '{"a": 1}', "[1]", '{"time": "no", "message": "x"}', "{}"],
)
def test_what_is_no_record_stays_as_it_is(line: str) -> None:
    assert readable(line) == line
