"""TLS between services: certificates, the identity of peers, and which methods each may call."""

from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.tls.certificates import CertificateFiles, Certificates, CertificateSource
from mlxmesh_shared.tls.server_tls import ServerTls

__all__ = [
    "CertificateFiles",
    "CertificateSource",
    "Certificates",
    "ServerTls",
    "open_certificates",
]


def open_certificates(settings: MeshSettings, role: str) -> CertificateSource | None:
    """The certificates of a process; None without TLS in the settings. Raises: IllegalState."""
    if settings.tls_dir is None:
        return None
    return CertificateSource(CertificateFiles.of_role(settings.tls_dir, role))
