"""The certificates of hosts that were removed, which no process of the mesh accepts any more."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.host.atomic_file import write_atomically
from mlxmesh_shared.tls.recalled import FILE_NAME

_log = logging.getLogger(__name__)


class Recalled:
    """On the first host: what was recalled and has not expired yet, in a file."""

    def __init__(self, folder: Path, tls_dir: Path, clock: Callable[[], float]) -> None:
        """`clock` returns seconds since the epoch. Raises: IllegalState for an unusable file."""
        self._path = folder / "recalled.json"
        self._tls_dir = tls_dir
        self._clock = clock
        self._expires_s = _read(self._path)
        if self._expires_s:
            write_recalled(tls_dir, self.current())

    def current(self) -> list[str]:
        """Their fingerprints."""
        now_s = self._clock()
        return sorted(each for each, expires_s in self._expires_s.items() if expires_s > now_s)

    def add(self, issued: Mapping[str, float]) -> None:
        """Recalls certificates: when each expires, by its fingerprint. Raises: IllegalState."""
        self._expires_s = {**self._expires_s, **issued}
        kept = {each: self._expires_s[each] for each in self.current()}
        try:
            write_atomically(self._path, json.dumps(kept).encode(), mode=0o600)
        except OSError as error:
            raise IllegalState(f"cannot write {self._path}: {error.strerror}") from None
        write_recalled(self._tls_dir, kept)


def write_recalled(tls_dir: Path, fingerprints: Iterable[str]) -> None:
    """Has the processes of this host refuse these certificates. Raises: IllegalState."""
    path = tls_dir / FILE_NAME
    content = "".join(f"{each}\n" for each in sorted(fingerprints)).encode()
    try:
        if (path.read_bytes() if path.exists() else b"") != content:
            write_atomically(path, content, mode=0o644)
            _log.info("recalled certificates: %d", content.count(b"\n"))
    except OSError as error:
        raise IllegalState(f"cannot write {path}: {error.strerror}") from None


def _read(path: Path) -> dict[str, float]:
    try:
        return {str(each): float(at_s) for each, at_s in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise IllegalState(
            f"{path} cannot be read ({type(error).__name__}); restore it: the certificates of"
            " hosts that were removed would be valid again"
        ) from None
