"""Dates, times and durations on the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from mlxmesh_cli.commands.times import future_time, past_time

TOLERANCE = timedelta(seconds=30)


@pytest.mark.parametrize(
    ("text", "distance"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_durations_count_from_now(text: str, distance: timedelta) -> None:
    now = datetime.now(UTC)
    assert abs(future_time(text) - (now + distance)) < TOLERANCE
    assert abs(past_time(text) - (now - distance)) < TOLERANCE


def test_times_without_a_zone_are_local() -> None:
    assert past_time("2026-11-29") == datetime(2026, 11, 29).astimezone()
    assert past_time("2026-11-29T18:30") == datetime(2026, 11, 29, 18, 30).astimezone()
    assert past_time("2026-11-29T18:30Z") == datetime(2026, 11, 29, 18, 30, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "soon", "30", "30y", "-3d", "2026-13-01", "9999999d"])
def test_anything_else_is_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="30d, 12h, 2026-12-31"):
        future_time(text)


@pytest.mark.parametrize("text", ["2020-01-01", "0d"])
def test_what_should_be_in_the_future_is(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="in the future"):
        future_time(text)


def test_a_time_beyond_the_calendar_is_wrong_usage() -> None:
    with pytest.raises(typer.BadParameter, match="too far away"):
        future_time("999999w")
