"""TLS of a server: credentials that are renewed without a restart, and who may call it."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_shared.tls.certificates import Certificates, CertificateSource
from mlxmesh_shared.tls.method_access import MethodAccess
from mlxmesh_shared.tls.recalled import FILE_NAME, RecalledCertificates

_HANDSHAKE_GRACE_S = 0.02
"""How long a handshake may take from getting certificates to using them."""


@dataclass(frozen=True)
class ServerTls:
    """The TLS configuration of one server."""

    certificates: CertificateSource
    at_gateway: bool = False
    """Whether the roles that the contracts declare for the gateway apply, or those for services."""
    client_certificates: bool = True
    """Whether every caller must present a certificate; if not, every caller has the role client."""

    def credentials(self) -> grpc.ServerCredentials:
        """The credentials of the port; each new connection gets the newest certificates."""
        first = self.certificates.current()
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(first),
            self._renewal(first),
            require_client_authentication=self.client_certificates,
        )

    def recalled(self) -> RecalledCertificates:
        """The certificates that are refused although they have not expired."""
        return RecalledCertificates(self.certificates.folder / FILE_NAME)

    def access(self, services: Iterable[ServiceDescriptor]) -> MethodAccess:
        """The allowed roles of the methods of these services."""
        return MethodAccess(
            services,
            at_gateway=self.at_gateway,
            anonymous_role=Role.ROLE_UNSPECIFIED if self.client_certificates else Role.ROLE_CLIENT,
        )

    def _renewal(self, first: Certificates) -> Callable[[], Any]:
        """Returns new certificates or None; gRPC calls it at each handshake, one at a time.

        When gRPC gets new certificates it frees the old ones, even if a handshake on another thread
        is about to use them, which crashes the process (grpc/grpc#36693). So it gets certificates
        only when they have changed, and after a pause for handshakes in progress.
        """
        known = first

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal known
            now = self.certificates.current()
            if now is known:
                return None
            known = now
            time.sleep(_HANDSHAKE_GRACE_S)
            return self._configuration(now)

        return renewed

    def _configuration(self, now: Certificates) -> grpc.ServerCertificateConfiguration:
        roots = now.ca if self.client_certificates else None
        return grpc.ssl_server_certificate_configuration(
            [(now.key, now.certificate)], root_certificates=roots
        )
