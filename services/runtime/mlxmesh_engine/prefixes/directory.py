"""The prefixes of one model on disk: written in the background, bounded, and read by threads.

A file's name is the digest of all tokens that it depends on, so it never changes, and several
engines of a host may use the same directory. The time of its last use is that of its last change.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mlxmesh_engine.prefixes.eviction import SUFFIX, Evictions
from mlxmesh_engine.prefixes.host_row import CorruptFile, HostRow, decode, encode, joined
from mlxmesh_engine.scheduling.request import PrefixDiskLoad

_log = logging.getLogger(__name__)

# Rows that wait to be written; more are dropped.
_MAX_PENDING_BYTES = 256 * 2**20
_PAUSE_AFTER_ERROR_S = 60.0
_TOUCH_EVERY_S = 60.0
_READERS = 2

Name = tuple[bytes, int]
"""The digest of all tokens that a file depends on, and how many tokens."""


@dataclass(slots=True)
class _Counts:
    """As `PrefixDiskLoad`."""

    nbytes: int = 0
    hits: int = 0
    writes: int = 0
    corrupt: int = 0
    errors: int = 0


class PrefixDirectory:
    """A directory of files; all methods return at once and may be called on any thread."""

    def __init__(
        self,
        root: Path,
        limit_bytes: int,
        identity: Callable[[], str],
        *,
        rescan_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """root: of all models of the host, which together take at most limit_bytes.

        identity: the name of this model's directory; called on a thread, may take long. Until then
        the directory is empty.
        rescan_s: how often it looks for files of other engines while it writes none.
        """
        self._root = root
        self._identity = identity
        self._rescan_s = rescan_s
        self._clock = clock
        self._evictions = Evictions(root, limit_bytes, clock)
        self._folder: Path | None = None
        self._opened = threading.Event()
        self._scanned_ns = 0
        self._files: dict[bytes, tuple[int, int]] = {}
        """Digest: tokens, bytes."""
        self._touched: dict[bytes, float] = {}
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        """Of the figures that several threads change."""
        self._pending_bytes = 0
        self._paused_until_s = 0.0
        self._counts = _Counts()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="prefix-reader")
        self._writer = threading.Thread(target=self._run, name="prefix-writer", daemon=True)
        self._writer.start()

    @property
    def load(self) -> PrefixDiskLoad:
        return PrefixDiskLoad(**asdict(self._counts))

    def wait_opened(self, timeout_s: float) -> bool:
        """Waits until its files are known; False if they are not by then."""
        return self._opened.wait(timeout_s)

    def lengths(self) -> list[int]:
        """The numbers of tokens after which there are files, ascending."""
        return sorted({tokens for tokens, _ in self._files.copy().values()})

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._files

    def read(self, wanted: Sequence[Name]) -> Future[HostRow | None]:
        """Reads these files, up to the first one that is missing or damaged, and joins them."""
        return self._readers.submit(self._read_all, wanted)

    def write(self, digest: bytes, tokens: int, row: HostRow) -> None:
        """Writes a file in the background, unless it exists. `row` must not be changed."""
        if digest in self._files or self._folder is None:
            return
        with self._lock:
            if self._pending_bytes + row.nbytes > _MAX_PENDING_BYTES:
                self._counts.errors += 1
                return
            self._pending_bytes += row.nbytes
        self._jobs.put(lambda: self._write(digest, tokens, row))

    def touch(self, digests: Iterable[bytes]) -> None:
        """Marks files as used now, the first ones of a prompt latest: they are deleted last."""
        now_s = self._clock()
        due = [
            digest
            for digest in digests
            if digest in self._files and now_s - self._touched.get(digest, 0.0) > _TOUCH_EVERY_S
        ]
        if due:
            self._touched.update(dict.fromkeys(due, now_s))
            self._jobs.put(lambda: self._touch(due))

    def close(self, timeout_s: float) -> None:
        """Writes what is pending, as far as the time allows."""
        self._jobs.put(None)
        self._writer.join(timeout_s)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        try:
            folder = self._root / self._identity()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._root.chmod(0o700)
            self._scan(folder)
        except OSError as error:
            _log.warning("prefixes are not kept on disk: %s", error)
            return
        self._folder = folder
        self._opened.set()
        _log.info("prefixes are kept on disk", extra={"fields": {"directory": str(folder)}})
        while True:
            try:
                job = self._jobs.get(timeout=self._rescan_s)
            except queue.Empty:
                with suppress(OSError):
                    self._rescan(folder)
                continue
            if job is None:
                return
            job()

    def _rescan(self, folder: Path) -> None:
        if folder.stat().st_mtime_ns != self._scanned_ns:
            self._scan(folder)

    def _scan(self, folder: Path) -> None:
        changed_ns = folder.stat().st_mtime_ns
        files: dict[bytes, tuple[int, int]] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(ValueError, FileNotFoundError):
                    digest, tokens = _parse(entry.name)
                    files[digest] = (tokens, entry.stat().st_size)
        self._files, self._scanned_ns = files, changed_ns
        self._counts.nbytes = sum(nbytes for _, nbytes in files.values())
        self._touched = {digest: at for digest, at in self._touched.items() if digest in files}

    def _write(self, digest: bytes, tokens: int, row: HostRow) -> None:
        with self._lock:
            self._pending_bytes -= row.nbytes
        if self._folder is None or digest in self._files or self._clock() < self._paused_until_s:
            return
        path = self._folder / _name(digest, tokens)
        try:
            if not path.exists():
                file = encode(path.name, row)
                if not self._make_room(len(file), self._folder):
                    return
                _write_file(path, file)
                self._evictions.written(len(file))
                self._counts.writes += 1
            nbytes = path.stat().st_size
            self._files[digest] = (tokens, nbytes)
            self._counts.nbytes += nbytes
        except OSError as error:
            with self._lock:
                self._counts.errors += 1
            self._paused_until_s = self._clock() + _PAUSE_AFTER_ERROR_S
            _log.warning("a prefix could not be written to disk: %s", error)

    def _make_room(self, nbytes: int, folder: Path) -> bool:
        before = self._evictions.deletions
        fits = self._evictions.make_room(nbytes, folder)
        if self._evictions.deletions != before:
            self._scan(folder)
        return fits

    def _read_all(self, wanted: Sequence[Name]) -> HostRow | None:
        rows: list[HostRow] = []
        for digest, tokens in wanted:
            row = self._read(digest, tokens)
            if row is None:
                break
            rows.append(row)
        with self._lock:
            self._counts.hits += len(rows)
        self.touch(digest for digest, _ in wanted[: len(rows)])
        return joined(rows) if rows else None

    def _read(self, digest: bytes, tokens: int) -> HostRow | None:
        if self._folder is None:
            return None
        path = self._folder / _name(digest, tokens)
        try:
            return decode(path.name, path.read_bytes())
        except FileNotFoundError:
            pass
        except CorruptFile as error:
            with self._lock:
                self._counts.corrupt += 1
            _log.warning("a prefix on disk is deleted: %s: %s", path.name, error)
            with suppress(OSError):
                path.unlink()
        except OSError as error:
            with self._lock:
                self._counts.errors += 1
            _log.warning("a prefix on disk cannot be read: %s", error)
        self._files.pop(digest, None)
        return None

    def _touch(self, digests: Sequence[bytes]) -> None:
        now_ns = int(self._clock() * 1e9)
        for at, digest in enumerate(digests):
            if self._folder is not None and (known := self._files.get(digest)) is not None:
                used_ns = now_ns - at * 10**6
                with suppress(OSError):
                    os.utime(self._folder / _name(digest, known[0]), ns=(used_ns, used_ns))


def _name(digest: bytes, tokens: int) -> str:
    return f"{digest.hex()}-{tokens}{SUFFIX}"


def _parse(name: str) -> tuple[bytes, int]:
    """Raises: ValueError."""
    digest, _, tokens = name.removesuffix(SUFFIX).partition("-")
    if not name.endswith(SUFFIX):
        raise ValueError(name)
    return bytes.fromhex(digest), int(tokens)


def _write_file(path: Path, content: bytes) -> None:
    """Writes a file that appears only once it is complete, and that only its user may read."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
