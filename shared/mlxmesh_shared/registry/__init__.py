"""Discovery: the port, the adapter that the settings choose, and the facts of an instance."""

import os
import socket

from mlxmesh_shared.host.host_port import join_host_port, local_host, split_host_port
from mlxmesh_shared.registry.directory import DirectoryRegistry
from mlxmesh_shared.registry.port import (
    OFFERS_RELAY,
    Instance,
    Registry,
    follow_others,
    follow_service,
)
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.tls import CertificateSource

__all__ = [
    "OFFERS_RELAY",
    "Instance",
    "Registry",
    "follow_others",
    "follow_service",
    "local_instance",
    "open_registry",
]

CONTRACT_VERSION = "v1"
"""The version in the package names of the contracts."""


def open_registry(
    settings: MeshSettings, certificates: CertificateSource | None = None
) -> Registry:
    """The registry of a mesh, on a running event loop; the caller closes it.

    certificates: those of this process, if the mesh uses TLS.
    """
    if settings.registry == "consul":
        # Not at the top: a mesh on one machine does not need an HTTP client.
        from mlxmesh_shared.registry.consul import ConsulRegistry

        return ConsulRegistry(settings.consul, certificates=certificates)
    return DirectoryRegistry(settings.data_dir / "registry")


def local_instance(
    settings: MeshSettings,
    service: str,
    instance_id: str,
    address: str,
    *,
    pid: int | None = None,
    **facts: str,
) -> Instance:
    """An instance on this host, by default this process, with the metadata of every instance."""
    common = {"contract": CONTRACT_VERSION, "host": socket.gethostname()}
    if settings.zone:
        common["zone"] = settings.zone
    host, port = split_host_port(address)
    return Instance(
        service=service,
        instance_id=instance_id,
        address=join_host_port(settings.advertise_host or local_host(host), port),
        pid=os.getpid() if pid is None else pid,
        metadata=common | facts,
    )
