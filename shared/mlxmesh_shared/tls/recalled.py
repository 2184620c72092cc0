"""Certificates that the mesh's authority has recalled before they expire."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

FILE_NAME = "recalled.txt"
"""Beside the authority's certificate: the SHA-256 of a certificate in DER on each line."""
CHECK_INTERVAL_S = 1.0
_PEER_CERTIFICATE = "x509_pem_cert"
_Stamp = tuple[int, int] | None


class RecalledCertificates:
    """Those that a file lists, which is read again when it changes."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._check_at_s = -1.0
        self._stamp: _Stamp = None
        self._hashes = frozenset[str]()

    def current(self) -> frozenset[str]:
        """The same object until the file has changed; none without a file."""
        now_s = self._clock()
        if now_s >= self._check_at_s:
            self._check_at_s = now_s + CHECK_INTERVAL_S
            self._read()
        return self._hashes

    def _read(self) -> None:
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
            if stamp != self._stamp:
                self._hashes = frozenset(self._path.read_text().split())
                self._stamp = stamp
        except FileNotFoundError:
            self._stamp, self._hashes = None, frozenset[str]()
        except (OSError, UnicodeDecodeError):
            pass  # what was known stays in force


def fingerprint(certificate: bytes) -> str:
    """The SHA-256 of a PEM certificate in DER, in hexadecimal digits."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.decode())).hexdigest()


def peer_fingerprint(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """Of the certificate that a peer showed in gRPC's handshake; empty without one."""
    shown = next(iter(auth_context.get(_PEER_CERTIFICATE, ())), b"")
    return _known_fingerprint(shown) if shown else ""


_known_fingerprint = lru_cache(maxsize=1024)(fingerprint)
