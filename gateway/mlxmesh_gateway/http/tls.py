"""TLS of the HTTP port: each connection uses the gateway's newest certificate."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from typing import Any

from mlxmesh_shared.tls import CertificateFiles
from mlxmesh_shared.tls.identity import NOBODY, PeerIdentity, identity_of

ClientCertificates = Callable[[], ssl.VerifyMode]
"""Whether a connection that begins now must, may or need not present a certificate."""


def server_context(
    files: CertificateFiles, *, client_certificates: ClientCertificates
) -> ssl.SSLContext:
    """A context that reads the files again for each connection."""

    class Context(ssl.SSLContext):
        """Asks for certificates as of the begin of each connection."""

        def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
            self.verify_mode = client_certificates()
            return super().wrap_bio(*args, **options)

    context = _load(Context(ssl.PROTOCOL_TLS_SERVER), files)

    def newest(connection: ssl.SSLObject, _name: str | None, asked: ssl.SSLContext) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):  # half of a rotation
            renewed = _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)
            # The handshake goes on as it began; Python hides the peer's certificate without this.
            renewed.verify_mode = asked.verify_mode
            connection.context = renewed

    context.sni_callback = newest
    return context


def identity_of_client(connection: ssl.SSLObject | None) -> PeerIdentity:
    """Who the client is by its certificate, if that was verified and has exactly one URI."""
    certificate: Any = connection.getpeercert() if connection is not None else None
    names = certificate.get("subjectAltName", ()) if certificate else ()
    uris = [value for kind, value in names if kind == "URI"]
    return identity_of(uris[0]) if len(uris) == 1 else NOBODY


def _load(context: ssl.SSLContext, files: CertificateFiles) -> ssl.SSLContext:
    assert files.certificate is not None, "a server's files have a certificate"
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.ca)
    return context
