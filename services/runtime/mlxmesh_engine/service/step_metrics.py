"""Measurements of the engine's steps: durations, batch sizes and the token rate."""

from collections import deque

from mlxmesh_engine.instruments import BATCH_SIZE, STEP_DURATION
from mlxmesh_shared.telemetry.metrics import BucketCounts

_WINDOW_S = 1.0


class TokenRate:
    """Tokens per second over a sliding window; the caller passes the time."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def add(self, now_s: float, tokens: int) -> None:
        self._steps.append((now_s, tokens))
        self._tokens += tokens

    def per_second(self, now_s: float) -> float:
        while self._steps and now_s - self._steps[0][0] > _WINDOW_S:
            self._tokens -= self._steps.popleft()[1]
        return self._tokens / _WINDOW_S


class StepMetrics:
    """Histograms of all decode steps; a step that follows an idle step has no duration."""

    def __init__(self) -> None:
        self.durations = BucketCounts(STEP_DURATION.bounds)
        self.batch_sizes = BucketCounts(BATCH_SIZE.bounds)
        self.tokens = 0
        """Decoded by all steps."""
        self._last_end_s: float | None = None

    def record(self, now_s: float, rows: int) -> None:
        """Records that a step which decoded `rows` sequences ended; 0 for none."""
        last_end_s, self._last_end_s = self._last_end_s, now_s if rows else None
        if not rows:
            return
        self.tokens += rows
        self.batch_sizes.record(rows)
        if last_end_s is not None:
            self.durations.record(now_s - last_end_s)
