"""The certificate, key and CA of a process, read from files and again when these change."""

import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_shared.errors import IllegalState

CHECK_INTERVAL_S = 1.0

_log = logging.getLogger(__name__)
_Stamps = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CertificateFiles:
    """Their paths; a client without certificate and key verifies its server and is anonymous."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def of_role(cls, tls_dir: Path, role: str) -> "CertificateFiles":
        """The files of a role in a directory that `mlxmesh certs` manages."""
        return cls(tls_dir / "ca.crt", tls_dir / f"{role}.crt", tls_dir / f"{role}.key")


@dataclass(frozen=True, repr=False)
class Certificates:
    """The contents of the files as PEM; `certificate` may be a chain, `ca` several authorities."""

    ca: bytes
    certificate: bytes
    key: bytes


class CertificateSource:
    """The current certificates; the last valid ones while the files do not match each other.

    Thread-safe, because gRPC calls it from its own threads.
    """

    def __init__(
        self, files: CertificateFiles, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises: IllegalState when the files are missing, unreadable or do not match."""
        self._files = files
        self._clock = clock
        self._lock = threading.Lock()
        self._stamps, self._current = _load(files)
        self._check_at_s = clock() + CHECK_INTERVAL_S
        self._problem = ""

    @property
    def folder(self) -> Path:
        """The directory of the authority's certificate."""
        return self._files.ca.parent

    def current(self) -> Certificates:
        """The same object until the files have changed."""
        with self._lock:
            if self._clock() >= self._check_at_s:
                self._check_at_s = self._clock() + CHECK_INTERVAL_S
                self._renew()
            return self._current

    def _renew(self) -> None:
        try:
            if _stamps(self._files) != self._stamps:
                self._stamps, self._current = _load(self._files)
                _log.info("the certificates in %s were renewed", self._files.ca.parent)
            self._problem = ""
        except (OSError, IllegalState) as error:
            # Often half of a rotation, and the other files follow. Otherwise it is logged once.
            if self._problem != (problem := str(error)):
                self._problem = problem
                _log.warning("the previous certificates stay in use: %s", problem)


def _load(files: CertificateFiles) -> tuple[_Stamps, Certificates]:
    try:
        stamps = _stamps(files)
        certificates = Certificates(
            files.ca.read_bytes(), _read(files.certificate), _read(files.key)
        )
        _check_match(files)
        if _stamps(files) != stamps:
            raise IllegalState(f"the files beside {files.ca} are being changed; try again")
    except ssl.SSLError as error:
        raise IllegalState(
            f"the certificate files beside {files.ca} cannot be used ({error.reason}): each must be"
            " PEM, and the key must be the certificate's own"
        ) from None
    except OSError as error:
        raise IllegalState(
            f"cannot read {error.filename}: {error.strerror}; make certificates with"
            " `mlxmesh certs`, or name the directory that has them (tls_dir)"
        ) from None
    return stamps, certificates


def _check_match(files: CertificateFiles) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.ca)
    if files.certificate is not None:
        context.load_cert_chain(files.certificate, files.key)


def _stamps(files: CertificateFiles) -> _Stamps:
    stats = [path.stat() for path in (files.ca, files.certificate, files.key) if path is not None]
    return tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)


def _read(path: Path | None) -> bytes:
    return b"" if path is None else path.read_bytes()
