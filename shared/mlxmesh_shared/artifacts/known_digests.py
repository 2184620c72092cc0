"""The SHA-256 of files that other programs own, remembered while the files stay the same."""

import json
import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlxmesh_shared.artifacts.digests import sha256
from mlxmesh_shared.host.atomic_file import write_atomically

_log = logging.getLogger(__name__)

_MAX_FILES = 100_000


class KnownDigests:
    """Reads a file only if its size, its time or its place on disk differ from the last reading.

    Its methods block; several threads may use it.
    """

    def __init__(self, memory: Path) -> None:
        """memory: the file that remembers. Of several processes, the last one to write wins."""
        self._memory = memory
        self._lock = threading.Lock()
        self._known: dict[str, tuple[list[int], str]] | None = None

    def sha256(self, path: Path) -> str:
        """The SHA-256 of a file. Raises: OSError."""
        place = str(path.resolve())
        found = path.stat()
        state = [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]
        with self._lock:
            known = self._all().get(place)
        if known is not None and known[0] == state:
            return known[1]
        digest = sha256(path)
        self._remember(place, state, digest)
        return digest

    def _all(self) -> dict[str, tuple[list[int], str]]:
        if self._known is None:
            self._known = {}
            with suppress(OSError, ValueError, TypeError, AttributeError):
                content: Mapping[str, Any] = json.loads(self._memory.read_bytes())
                self._known = {
                    str(place): ([int(each) for each in state], str(digest))
                    for place, (state, digest) in content.items()
                }
        return self._known

    def _remember(self, place: str, state: list[int], digest: str) -> None:
        with self._lock:
            known = self._all()
            known.pop(place, None)
            known[place] = (state, digest)
            while len(known) > _MAX_FILES:
                del known[next(iter(known))]
            try:
                self._memory.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._memory, json.dumps(known).encode(), mode=0o600)
            except OSError as error:  # it is read again another time
                _log.warning("%s cannot be written: %s", self._memory, error.strerror)
