"""How many calls read files of this host at a time, and how many bytes they have read."""

import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from mlxmesh_shared.errors import UploadsFull
from mlxmesh_shared.telemetry.instruments import Instrument, Kind
from mlxmesh_shared.telemetry.metrics import Metrics

SENT_BYTES = Instrument(
    "mlxmesh.artifact.sent", Kind.COUNTER, "By", "Bytes of files that were sent to other hosts"
)
READERS_PER_FILE = 2
"""With two, the hosts that want one file get it from each other, and one slow host does not hold
up all others."""
READERS = 8
STALE_AFTER_S = 3.0
"""A reader that took nothing for so long may be frozen, or cut off: it does not count."""


@dataclass(slots=True)
class Upload:
    """One call that reads a file."""

    sha256: str
    moved_s: float
    clock: Callable[[], float]
    count: Callable[[int], None]

    def sent(self, size_bytes: int) -> None:
        """Records that the reader took some bytes."""
        self.moved_s = self.clock()
        self.count(size_bytes)


class Uploads:
    """Admits readers of files."""

    def __init__(
        self,
        *,
        per_file: int = READERS_PER_FILE,
        total: int = READERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_file = per_file
        self._total = total
        self._clock = clock
        self._running: list[Upload] = []
        self.sent_bytes = 0
        """Since the process started."""
        self.sent_of = defaultdict[str, int](int)
        """The same by the SHA-256 of the file."""

    @contextmanager
    def reading(self, sha256: str) -> Generator[Upload]:
        """Counts a reader of a file. Raises: UploadsFull."""
        since_s = self._clock() - STALE_AFTER_S
        active = [each for each in self._running if each.moved_s >= since_s]
        of_file = sum(each.sha256 == sha256 for each in active)
        if of_file >= self._per_file or len(active) >= self._total:
            raise UploadsFull(
                "as many hosts read this file here as may; read it from one of them, or later",
                retry_delay_s=0.2,
            )

        def count(size_bytes: int) -> None:
            self.sent_bytes += size_bytes
            self.sent_of[sha256] += size_bytes

        upload = Upload(sha256, self._clock(), self._clock, count)
        self._running.append(upload)
        try:
            yield upload
        finally:
            self._running.remove(upload)

    def observe(self, metrics: Metrics) -> None:
        """Exports the count of bytes."""
        metrics.observe_value(SENT_BYTES, lambda: self.sent_bytes)
