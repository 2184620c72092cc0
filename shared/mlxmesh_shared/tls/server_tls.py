"""How a server uses TLS: its credentials, renewed without a restart, and whom it lets in."""

from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from mlxmesh.common.v1.rules_pb2 import Role
from mlxmesh_shared.tls.certificates import CertificateSource
from mlxmesh_shared.tls.method_access import MethodAccess


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
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._configuration,
            require_client_authentication=self.client_certificates,
        )

    def access(self, services: Iterable[ServiceDescriptor]) -> MethodAccess:
        """Who may call what of these services."""
        return MethodAccess(
            services,
            at_gateway=self.at_gateway,
            anonymous_role=Role.ROLE_UNSPECIFIED if self.client_certificates else Role.ROLE_CLIENT,
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        now = self.certificates.current()
        roots = now.ca if self.client_certificates else None
        return grpc.ssl_server_certificate_configuration(
            [(now.key, now.certificate)], root_certificates=roots
        )
