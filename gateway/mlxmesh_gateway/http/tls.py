"""TLS of the HTTP port: each connection uses the gateway's newest certificate."""

from __future__ import annotations

import contextlib
import ssl

from mlxmesh_shared.tls import CertificateFiles


def server_context(files: CertificateFiles, *, client_certificates: bool) -> ssl.SSLContext:
    """A context that reads the files again for each connection."""
    context = _load(files, client_certificates=client_certificates)

    def newest(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):  # half of a rotation
            connection.context = _load(files, client_certificates=client_certificates)

    context.sni_callback = newest
    return context


def _load(files: CertificateFiles, *, client_certificates: bool) -> ssl.SSLContext:
    assert files.certificate is not None, "a server's files have a certificate"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    if client_certificates:
        context.load_verify_locations(files.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
