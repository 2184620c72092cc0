"""The certificate authority of one mesh, which issues from its directory."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mlxmesh_launcher.certificate_directory import (
    BACKDATED,
    CONSUL,
    SUBJECTS,
    IssuedCertificate,
    read_certificate,
    read_certificates,
    write_pair,
)
from mlxmesh_shared.errors import IllegalState, InvalidArgument
from mlxmesh_shared.tls.identity import ROLES, SERVER_ROLES, server_name, spiffe_id

CA_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=90)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Authority:
    """Issues certificates from a directory's `ca.key`."""

    def __init__(self, tls_dir: Path, lifetime: timedelta = LIFETIME) -> None:
        """`lifetime` is that of new certificates. Raises: IllegalState when the directory holds no
        authority.
        """
        self._dir = tls_dir
        self._lifetime = lifetime
        try:
            self._certificate = x509.load_pem_x509_certificate((tls_dir / "ca.crt").read_bytes())
            key = serialization.load_pem_private_key((tls_dir / "ca.key").read_bytes(), None)
        except FileNotFoundError as error:
            raise IllegalState(
                f"{error.filename} is not there; make an authority with `mlxmesh certs init`, or"
                " issue on the host that has it"
            ) from None
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    @classmethod
    def create(cls, tls_dir: Path, lifetime: timedelta = LIFETIME) -> Authority:
        """A new authority. Raises: IllegalState when the directory has one."""
        if (tls_dir / "ca.crt").exists():
            raise IllegalState(
                f"{tls_dir} has an authority already; certificates of a new one would be refused by"
                " processes that trust the old: remove the directory first if that is meant"
            )
        tls_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mlxmesh authority")])
        builder = _builder(name, name, key.public_key(), CA_LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(_usage(signs_certificates=True), True)
        write_pair(tls_dir / "ca", builder.sign(key, hashes.SHA256()), key)
        return cls(tls_dir, lifetime)

    def issue(
        self, role: str, *, hosts: Iterable[str] = (), lifetime: timedelta | None = None
    ) -> IssuedCertificate:
        """Writes a new certificate and key of a role (or of CONSUL), in place of those it had.

        A server's is good for this host's name, the loopback addresses and `hosts`.
        Raises: InvalidArgument for an unknown role or an illegal host.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = (socket.gethostname(), *hosts)
        lifetime = self._lifetime if lifetime is None else lifetime
        certificate = self._certificate_of(role, key.public_key(), names, lifetime)
        write_pair(self._dir / role, certificate, key)
        return read_certificate(self._dir / f"{role}.crt")

    def sign(self, role: str, csr: bytes, *, hosts: Iterable[str]) -> bytes:
        """The PEM certificate of a role for the key of another host's DER request.

        Nothing else of the request is used: a server's certificate is good for the loopback
        addresses and `hosts`. Raises: InvalidArgument as of `issue`, and for an illegal request.
        """
        try:
            request = x509.load_der_x509_csr(csr)
            key = request.public_key()
            is_legal = request.is_signature_valid
        except (ValueError, UnsupportedAlgorithm):
            raise InvalidArgument("is not a certificate request in DER", field="csr") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not is_legal:
            raise InvalidArgument("must be signed by its own EC key", field="csr")
        if not isinstance(key.curve, ec.SECP256R1):
            raise InvalidArgument("must have a key on P-256", field="csr")
        certificate = self._certificate_of(role, key, hosts, self._lifetime)
        return certificate.public_bytes(serialization.Encoding.PEM)

    def certificate(self) -> bytes:
        """The authority's own certificate, as PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issued(self) -> tuple[str, ...]:
        """Every role, and CONSUL where it has a certificate."""
        agents = (self._dir / f"{CONSUL}.crt").exists()
        return SUBJECTS if agents else ROLES

    def renew(self, roles: Iterable[str], *, only_due: bool = False) -> list[IssuedCertificate]:
        """Issues these roles' certificates again, for the hosts they had, and those missing."""
        had = {each.role: each for each in read_certificates(self._dir)}
        now = datetime.now(UTC)
        return [
            self.issue(role, hosts=had[role].hosts if role in had else ())
            for role in roles
            if role not in had or not only_due or had[role].due(self._lifetime) < now
        ]

    def _certificate_of(
        self, role: str, key: ec.EllipticCurvePublicKey, hosts: Iterable[str], lifetime: timedelta
    ) -> x509.Certificate:
        if role not in SUBJECTS:
            known = ", ".join(SUBJECTS)
            raise InvalidArgument(f"{role} is no role; there are: {known}", field="role")
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mlxmesh {role}")])
        builder = _builder(name, self._certificate.subject, key, lifetime)
        for extension in self._extensions(role, hosts):
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _extensions(self, role: str, hosts: Iterable[str]) -> Iterator[x509.ExtensionType]:
        serves = role in (*SERVER_ROLES, CONSUL)
        names: list[x509.GeneralName] = []
        own: list[str] = []
        if role in ROLES:
            names.append(x509.UniformResourceIdentifier(spiffe_id(role)))
            own.append(server_name(role))
        if serves:
            # Each once, in this order.
            everywhere = (*own, *_LOOPBACK, *hosts)
            names += [_host(host) for host in dict.fromkeys(everywhere)]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        usages += [ExtendedKeyUsageOID.SERVER_AUTH] if serves else []
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        yield x509.SubjectAlternativeName(names)
        yield x509.ExtendedKeyUsage(usages)
        yield issuer
        yield _usage(signs_certificates=False)
        yield x509.BasicConstraints(ca=False, path_length=None)


def ensure_certificates(tls_dir: Path, lifetime: timedelta = LIFETIME) -> list[IssuedCertificate]:
    """Makes what a whole mesh needs: the authority, and what is missing or due of every role, and
    of Consul agents where they have a certificate.
    """
    exists = (tls_dir / "ca.crt").exists()
    make = Authority if exists else Authority.create
    authority = make(tls_dir, lifetime)
    return authority.renew(authority.issued(), only_due=True)


def write_self_signed(stem: Path, name: str) -> IssuedCertificate:
    """Writes a key, and a certificate that it signed itself, for a server that callers know by its
    fingerprint.
    """
    stem.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key.public_key(), CA_LIFETIME)
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = builder.add_extension(names, critical=False)
    write_pair(stem, builder.sign(key, hashes.SHA256()), key)
    return read_certificate(stem.with_name(f"{stem.name}.crt"))


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise InvalidArgument("a host is a name in ASCII or an address", field="host") from None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + lifetime) - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
