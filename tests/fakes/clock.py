"""A clock that stands still until it is told otherwise."""

from datetime import UTC, datetime

START = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)


class FakeClock:
    """Satisfies mlxmesh_access.clock.Clock."""

    def __init__(self, now: datetime = START) -> None:
        self.now_ms = round(now.timestamp() * 1000)

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        """Moves on."""
        self.now_ms += round(seconds * 1000)
