"""Points in time on the command line: a date, a date and time, or a duration such as 30d."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d{1,6})([smhdw])")
FORMS = "30d, 12h, 2026-12-31 or 2026-12-31T18:00"


def past_time(text: str) -> datetime:
    """A duration counts back from now. Raises: BadParameter."""
    return _moment(text, -1)


def future_time(text: str) -> datetime:
    """A duration counts from now; other times must be in the future. Raises: BadParameter."""
    moment = _moment(text, 1)
    if moment <= datetime.now(UTC):
        raise typer.BadParameter("must be in the future")
    return moment


def _moment(text: str, direction: int) -> datetime:
    if duration := _DURATION.fullmatch(text):
        amount = {_UNITS[duration[2]]: direction * int(duration[1])}
        try:
            return datetime.now(UTC) + timedelta(**amount)
        except OverflowError:
            raise typer.BadParameter("is too far away") from None
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"must be a duration or a time: {FORMS}") from None
