"""How long decode steps take, and how many sequences are in each: counted on the MLX thread."""

from mlxmesh_shared.telemetry.bucket_counts import BucketCounts
from mlxmesh_shared.telemetry.instruments import BATCH_SIZE, STEP_DURATION


class StepCounts:
    """Told of each turn of the loop; a step that follows an idle turn has no duration."""

    def __init__(self) -> None:
        self.durations = BucketCounts(STEP_DURATION.bounds)
        self.batch_sizes = BucketCounts(BATCH_SIZE.bounds)
        self.tokens = 0
        """Of all steps."""
        self._last_end_s: float | None = None

    def turned(self, now_s: float, rows: int) -> None:
        """A turn ended at now_s; `rows` sequences were decoded in it, 0 for no step."""
        last_end_s, self._last_end_s = self._last_end_s, now_s if rows else None
        if not rows:
            return
        self.tokens += rows
        self.batch_sizes.record(rows)
        if last_end_s is not None:
            self.durations.record(now_s - last_end_s)
