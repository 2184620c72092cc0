"""The speed of a download over its last seconds. Pure."""

from collections import deque

WINDOW_S = 5.0


class Speed:
    """A mean over a window of samples."""

    def __init__(self) -> None:
        self._samples = deque[tuple[float, int]]()

    def sample(self, now_s: float, done_bytes: int) -> float:
        """Bytes per second, with this sample as the newest; 0 from one sample alone."""
        self._samples.append((now_s, done_bytes))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()
        first_s, first_bytes = self._samples[0]
        if now_s <= first_s:
            return 0.0
        return max(0.0, (done_bytes - first_bytes) / (now_s - first_s))
