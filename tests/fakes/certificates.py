"""Certificates as no authority of ours would issue them, and sources that notice every change."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mlxmesh_launcher.authority import Authority
from mlxmesh_shared.tls import CertificateFiles, CertificateSource
from mlxmesh_shared.tls.identity import ROLES


def issue_all(tls_dir: Path) -> Authority:
    """A new authority, and a certificate of every role."""
    authority = Authority.create(tls_dir)
    authority.renew(ROLES)
    return authority


def source(tls_dir: Path, role: str) -> CertificateSource:
    """A role's certificates, with a clock so fast that each question looks at the files."""
    seconds = count(step=10)
    files = CertificateFiles.of_role(tls_dir, role)
    return CertificateSource(files, clock=lambda: float(next(seconds)))


def client_context(tls_dir: Path, role: str = "") -> ssl.SSLContext:
    """What an HTTP client of a role connects with; without a role it presents no certificate."""
    context = ssl.create_default_context(cafile=tls_dir / "ca.crt")
    if role:
        context.load_cert_chain(tls_dir / f"{role}.crt", tls_dir / f"{role}.key")
    return context


def expired(tls_dir: Path, role: str) -> CertificateFiles:
    """Makes the role's certificate one that ended a minute ago."""
    Authority(tls_dir).issue(role, lifetime=timedelta(minutes=-1))
    return CertificateFiles.of_role(tls_dir, role)


def without_role(tls_dir: Path, uri: str) -> CertificateFiles:
    """A certificate of the authority, but with this URI, or for an empty one with none."""
    certificate = x509.load_pem_x509_certificate((tls_dir / "ca.crt").read_bytes())
    ca_key = serialization.load_pem_private_key((tls_dir / "ca.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    names = [x509.UniformResourceIdentifier(uri)] if uri else [x509.DNSName("gateway.mlxmesh")]
    signed = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mlxmesh gateway")]))
        .issuer_name(certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    files = CertificateFiles(tls_dir / "ca.crt", tls_dir / "odd.crt", tls_dir / "odd.key")
    (tls_dir / "odd.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (tls_dir / "odd.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files
