"""How a server uses TLS: its credentials, renewed without a restart, and whom it lets in."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_shared.tls.certificates import Certificates, CertificateSource
from mlxmesh_shared.tls.method_access import MethodAccess

_UNDER_WAY_S = 0.02
"""A handshake that has asked for certificates has begun to use them after so long."""


@dataclass(frozen=True)
class ServerTls:
    """TLS of one server."""

    certificates: CertificateSource
    at_gateway: bool = False
    """Whether the contracts' roles for the gateway hold, or those for the services."""
    client_certificates: bool = True
    """Whether every caller must show a certificate; else none is asked for, and all are clients."""

    def credentials(self) -> grpc.ServerCredentials:
        """For the port: each new connection gets the newest certificates, old ones stay open."""
        first = self.certificates.current()
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(first),
            self._renewal(first),
            require_client_authentication=self.client_certificates,
        )

    def access(self, services: Iterable[ServiceDescriptor]) -> MethodAccess:
        """Who may call what of these services."""
        return MethodAccess(
            services,
            at_gateway=self.at_gateway,
            anonymous_role=Role.ROLE_UNSPECIFIED if self.client_certificates else Role.ROLE_CLIENT,
        )

    def _renewal(self, first: Certificates) -> Callable[[], Any]:
        """What gRPC asks at each handshake, one at a time: new certificates, or None.

        gRPC frees the old ones as it takes new ones, also from under a handshake on another thread
        that has not begun to use them, which ends the process (grpc/grpc#36693). So it gets new
        ones only when there are some, and handshakes on their way get a moment before that.
        """
        told = first

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal told
            now = self.certificates.current()
            if now is told:
                return None
            told = now
            time.sleep(_UNDER_WAY_S)
            return self._configuration(now)

        return renewed

    def _configuration(self, now: Certificates) -> grpc.ServerCertificateConfiguration:
        roots = now.ca if self.client_certificates else None
        return grpc.ssl_server_certificate_configuration(
            [(now.key, now.certificate)], root_certificates=roots
        )
