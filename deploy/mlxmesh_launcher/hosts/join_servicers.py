"""JoinService and RenewalService, which other hosts call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from grpc import aio

from mlxmesh.control.v1 import hosts_pb2 as pb
from mlxmesh.control.v1 import hosts_pb2_grpc as pb_grpc
from mlxmesh_launcher.hosts.admission import Admission, Admitted, Candidate
from mlxmesh_launcher.hosts.state import DATACENTER, HostState, renewal_address_of
from mlxmesh_shared.errors import InvalidArgument, PermissionDenied
from mlxmesh_shared.rpc.caller import peer_host
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.tls import ServerTls

_log = logging.getLogger(__name__)

# A peer needs no certificate here, so it gets little memory and few connections.
_SMALL = ServerOptions(
    max_message_bytes=128 * 1024,
    max_held_bytes=2**20,
    max_connections=64,
    max_concurrent_rpcs=16,
    max_concurrent_streams=4,
    max_connection_idle_s=30,
    reflection=False,
)


Described = Callable[[], tuple[HostState, str]]
"""The first host's part in the mesh, and the prefix of the mesh in Consul."""


class JoinServicer(pb_grpc.JoinServiceServicer):
    """Lets hosts join."""

    def __init__(self, admission: Admission, described: Described) -> None:
        self._admission = admission
        self._described = described

    async def Join(
        self, request: pb.JoinRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.JoinResponse:
        admitted = self._admission.admit(_candidate(request), peer_host(context.peer()))
        state, prefix = self._described()
        return pb.JoinResponse(
            ca_certificate=admitted.ca,
            certificates=_certificates(admitted),
            services=admitted.services,
            runs_agents=bool(state.consul),
            gossip_key=state.gossip_key,
            datacenter=DATACENTER,
            consul_servers=[state.address],
            consul_prefix=prefix,
            first_host=state.name,
            renewal_address=renewal_address_of(state),
        )


class RenewalServicer(pb_grpc.RenewalServiceServicer):
    """Renews certificates of hosts that joined."""

    def __init__(self, admission: Admission, recalled: Callable[[], Sequence[str]]) -> None:
        """recalled: the fingerprints of recalled certificates."""
        self._admission = admission
        self._recalled = recalled

    async def RenewCertificates(
        self, request: pb.RenewCertificatesRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.RenewCertificatesResponse:
        requests = _requests(request.certificate_requests)
        admitted = self._admission.renew(request.host_name, requests, _shown(context))
        _log.info("renewed the certificates of host %s", request.host_name)
        return pb.RenewCertificatesResponse(
            ca_certificate=admitted.ca, certificates=_certificates(admitted)
        )

    async def ListRecalledCertificates(
        self,
        request: pb.ListRecalledCertificatesRequest,
        context: aio.ServicerContext[Any, Any],
    ) -> pb.ListRecalledCertificatesResponse:
        self._admission.member(request.host_name, _shown(context))
        return pb.ListRecalledCertificatesResponse(fingerprints=self._recalled())


def join_server(
    admission: Admission, described: Described, *, listen: str, tls: ServerTls
) -> MeshServer:
    """The server of JoinService, which has TLS without certificates of callers."""
    return MeshServer(
        listen=listen,
        services=[
            (pb_grpc.add_JoinServiceServicer_to_server, JoinServicer(admission, described)),
        ],
        service_names=[pb.DESCRIPTOR.services_by_name["JoinService"].full_name],
        options=_SMALL,
        name="launcher",
        tls=tls,
        leaving=asyncio.Event(),
    )


def renewal_server(
    admission: Admission,
    recalled: Callable[[], Sequence[str]],
    *,
    listen: str,
    tls: ServerTls,
) -> MeshServer:
    """The server of RenewalService."""
    servicer = RenewalServicer(admission, recalled)
    return MeshServer(
        listen=listen,
        services=[(pb_grpc.add_RenewalServiceServicer_to_server, servicer)],
        service_names=[pb.DESCRIPTOR.services_by_name["RenewalService"].full_name],
        # Each host asks every few seconds what was recalled.
        options=replace(_SMALL, log_successes=False),
        name="launcher",
        tls=tls,
        leaving=asyncio.Event(),
    )


def _shown(context: aio.ServicerContext[Any, Any]) -> bytes:
    """The certificate that the caller showed, PEM. Raises: PermissionDenied without one."""
    [shown] = context.auth_context().get("x509_pem_cert", [b""])
    if not shown:
        raise PermissionDenied("this needs the certificate of the host's runtime")
    return shown


def _candidate(request: pb.JoinRequest) -> Candidate:
    return Candidate(
        invitation_id=request.invitation_id,
        secret=request.secret,
        name=request.host_name,
        address=request.address,
        version=request.version,
        local_time_s=request.local_time.seconds + request.local_time.nanos / 1e9,
        requests=_requests(request.certificate_requests),
    )


def _requests(requests: Iterable[pb.CertificateRequest]) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    for each in requests:
        if each.role in found:
            raise InvalidArgument(
                f"there are two requests for {each.role}", field="certificate_requests"
            )
        found[each.role] = each.csr
    return found


def _certificates(admitted: Admitted) -> list[pb.SignedCertificate]:
    return [
        pb.SignedCertificate(role=role, certificate=pem)
        for role, pem in admitted.certificates.items()
    ]
