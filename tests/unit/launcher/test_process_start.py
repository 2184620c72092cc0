"""A launcher is still the one of the record after the clock was set."""

from __future__ import annotations

import pytest

from mlxmesh_launcher.record import start_of


class Process:
    """Started 100 s after the boot, on a host whose clock is so far ahead."""

    def __init__(self, ahead_s: float, *, linux: bool) -> None:
        self._start_s = 1000.0 + 100.0 + (ahead_s if linux else 0.0)

    def create_time(self) -> float:
        return self._start_s


@pytest.mark.parametrize("linux", [True, False])
def test_the_start_stays_when_the_clock_is_set(linux: bool) -> None:
    def start_s(ahead_s: float) -> float:
        process = Process(ahead_s, linux=linux)
        return start_of(process, lambda: 1000.0 + ahead_s, linux=linux)

    assert start_s(0.0) == start_s(3600.0) == start_s(-3600.0)
