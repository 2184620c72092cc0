"""The certificates and keys of a mesh in a directory: read, and written whole.

`ca.crt` and `ca.key`, then for each role `ROLE.crt` and `ROLE.key`, and for Consul agents
`consul.crt` and `consul.key`. Whoever can read `ca.key` can be anyone in the mesh: it stays on the
host that issues.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.tls.identity import ROLES

_DUE_WITH_LEFT = 1 / 3
"""A certificate with less than this part of a lifetime left is due for renewal."""
# Clocks of hosts differ, and one may be set back, as by daylight saving time taken for UTC: a peer
# whose certificate is not valid yet is refused.
BACKDATED = timedelta(days=1)
CONSUL = "consul"
"""What Consul agents show: a certificate without a role, whose owner may ask for health only."""
SUBJECTS = (*ROLES, CONSUL)


@dataclass(frozen=True)
class IssuedCertificate:
    """What a certificate file says."""

    path: Path
    role: str
    """The role it proves, "consul", or "ca" for the authority's own."""
    hosts: tuple[str, ...]
    """Names and addresses under which its server may be reached."""
    expires: datetime
    lifetime: timedelta
    """For how long it was issued."""

    def due(self, lifetime: timedelta) -> datetime:
        """When it should be renewed where certificates are issued for this lifetime."""
        return self.expires - lifetime * _DUE_WITH_LEFT


def key_hash(certificate: bytes) -> str:
    """The SHA-256 of the public key of a PEM certificate, in hexadecimal digits."""
    public = x509.load_pem_x509_certificate(certificate).public_key()
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(public.public_bytes(encoding, form)).hexdigest()


def read_certificates(tls_dir: Path) -> list[IssuedCertificate]:
    """Every certificate in a directory, the authority's first."""
    names = ("ca", *SUBJECTS)
    paths = [tls_dir / f"{name}.crt" for name in names]
    return [read_certificate(path) for path in paths if path.exists()]


def read_certificate(path: Path) -> IssuedCertificate:
    """What a certificate file says. Raises: IllegalState when it is none."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise IllegalState(f"{path} is no PEM certificate; issue it again") from None
    return IssuedCertificate(
        path=path,
        role=path.stem,
        hosts=tuple(_hosts(certificate)),
        expires=certificate.not_valid_after_utc,
        lifetime=certificate.not_valid_after_utc - certificate.not_valid_before_utc - BACKDATED,
    )


def until_due_s(tls_dir: Path, lifetime: timedelta | None = None) -> float:
    """In how many seconds the first certificate of a directory is due, negative if it is already;
    the authority's cannot be renewed. Without a lifetime, each has its own.

    Raises: OSError, IllegalState for one that cannot be read.
    """
    now = datetime.now(UTC)
    due = [
        each.due(each.lifetime if lifetime is None else lifetime)
        for each in read_certificates(tls_dir)
        if each.role != "ca"
    ]
    return min(((each - now).total_seconds() for each in due), default=math.inf)


def write_pair(stem: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Writes a certificate and its key to `STEM.crt` and `STEM.key`."""
    encoding = serialization.Encoding.PEM
    _write(stem.with_name(f"{stem.name}.key"), _pem_of(key), 0o600)
    _write(stem.with_name(f"{stem.name}.crt"), certificate.public_bytes(encoding), 0o644)


@dataclass(frozen=True)
class NewKey:
    """A key whose certificate another host signs."""

    role: str
    csr: bytes
    """The request, in DER."""
    key: bytes = field(repr=False)
    """PEM; it never leaves this host."""

    @classmethod
    def create(cls, role: str) -> NewKey:
        """A new key on P-256."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mlxmesh {role}")])
        request = x509.CertificateSigningRequestBuilder().subject_name(name)
        csr = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        return cls(role, csr, _pem_of(key))

    def write(self, tls_dir: Path, certificate: bytes) -> None:
        """Writes the pair, in place of an older one. Raises: OSError."""
        tls_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(tls_dir / f"{self.role}.key", self.key, 0o600)
        _write(tls_dir / f"{self.role}.crt", certificate, 0o644)


def write_authority(tls_dir: Path, certificate: bytes) -> None:
    """Writes the certificate of an authority on another host, as PEM. Raises: OSError."""
    tls_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(tls_dir / "ca.crt", certificate, 0o644)


def remove_other_roles(tls_dir: Path, roles: Iterable[str]) -> None:
    """Removes the certificates and keys of all but these. Raises: OSError."""
    for role in set(SUBJECTS).difference(roles):
        for suffix in ("crt", "key"):
            (tls_dir / f"{role}.{suffix}").unlink(missing_ok=True)


def _hosts(certificate: x509.Certificate) -> Iterator[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    yield from names.get_values_for_type(x509.DNSName)
    yield from map(str, names.get_values_for_type(x509.IPAddress))


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _write(path: Path, content: bytes, mode: int) -> None:
    """Writes whole and renames, so that no reader sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)
