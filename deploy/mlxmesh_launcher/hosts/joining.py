"""How this host joins a mesh: from a token to certificates and settings, and later renewals."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from cryptography import x509
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.control.v1 import hosts_pb2 as pb
from mlxmesh.control.v1 import hosts_pb2_grpc as pb_grpc
from mlxmesh_launcher.certificate_directory import (
    NewKey,
    remove_other_roles,
    write_authority,
)
from mlxmesh_launcher.hosts.admission import roles_of
from mlxmesh_launcher.hosts.join_token import JoinToken
from mlxmesh_launcher.hosts.state import DEFAULT_JOIN_PORT, SERVICES, HostState
from mlxmesh_shared.errors import IllegalState, InvalidArgument, ServiceUnavailable
from mlxmesh_shared.host.host_port import join_host_port
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, open_channel
from mlxmesh_shared.tls import CertificateFiles, CertificateSource

CONNECT_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 30.0
_JOIN_ROLE = "join"
"""The server of JoinService shows the name join.mlxmesh."""
_REQUESTED = roles_of(SERVICES, runs_agent=True)


@dataclass(frozen=True)
class Server:
    """The server of JoinService, whose certificate is the one that the token names."""

    host: str
    port: int
    certificate: bytes
    """PEM."""
    own_address: str
    """The IP address of this host on the way to it."""


def parse_where(text: str) -> tuple[str, int]:
    """The host and port of `--join HOST[:PORT]`. Raises: InvalidArgument."""
    host, separator, port = text.rpartition(":")
    if not separator or (text.count(":") > 1 and not text.startswith("[")) or text.endswith("]"):
        host, port = text, str(DEFAULT_JOIN_PORT)
    if not host.strip("[]") or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(
            f"must be HOST or HOST:PORT, as `mlxmesh hosts invite` printed it, not {text}",
            field="join",
        )
    return host.strip("[]"), int(port)


def find_server(host: str, port: int, token: JoinToken) -> Server:
    """Connects and compares the server's certificate with the token; sends nothing else.

    Raises: ServiceUnavailable, IllegalState.
    """
    where = join_host_port(host, port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The token says which certificate it must be; the second connection trusts only that one.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as plain,
            context.wrap_socket(plain) as secured,
        ):
            own_address = secured.getsockname()[0]
            shown = secured.getpeercert(binary_form=True) or b""
    except ssl.SSLError:
        raise IllegalState(
            f"what listens on {where} does not speak TLS, so it is not the join port of a mesh; use"
            " the address that `mlxmesh hosts invite` printed"
        ) from None
    except socket.gaierror:
        raise ServiceUnavailable(f"no host is known as {host}; use its IP address") from None
    except ConnectionRefusedError:
        raise ServiceUnavailable(
            f"{where} refuses connections: no invitation is open there (they are short-lived), the"
            " mesh does not run, or it is another port; see what `mlxmesh hosts invite` prints"
        ) from None
    except OSError as error:
        raise ServiceUnavailable(
            f"{where} cannot be reached ({error.strerror or error}); check the address, the network"
            f" and firewalls: the first host listens on TCP port {port} while an invitation is open"
        ) from None
    if not hmac.compare_digest(hashlib.sha256(shown).digest(), token.fingerprint):
        raise IllegalState(
            f"the certificate of {where} is not the one that the token names: somebody intercepts"
            " the connection, it is another port, or the token is of another mesh. Nothing was"
            " sent; compare the address with that of `mlxmesh hosts invite`"
        )
    _check_clock(shown)
    return Server(host, port, ssl.DER_cert_to_PEM_cert(shown).encode(), own_address)


def _check_clock(certificate: bytes) -> None:
    """Raises: IllegalState when TLS would fail because of this host's clock."""
    begins = x509.load_der_x509_certificate(certificate).not_valid_before_utc
    if datetime.now(UTC) < begins:
        raise IllegalState(
            f"this host's clock is behind: the first host's certificate is valid from {begins}; set"
            " the clock (NTP), then try again with the same token"
        )


async def ask_to_join(
    server: Server, token: JoinToken, *, address: str, name: str
) -> tuple[pb.JoinResponse, Sequence[NewKey]]:
    """Joins; the token is used up then. Raises: MeshError, as of JoinService."""
    keys = await asyncio.to_thread(_new_keys, _REQUESTED)
    request = pb.JoinRequest(
        invitation_id=token.invitation_id,
        secret=token.secret,
        host_name=name,
        address=address,
        version=version("mlxmesh"),
        local_time=_now(),
        certificate_requests=_messages(keys),
    )
    with tempfile.TemporaryDirectory() as folder:
        trusted = Path(folder) / "join.crt"
        trusted.write_bytes(server.certificate)
        channel = open_channel(
            join_host_port(server.host, server.port),
            role=_JOIN_ROLE,
            certificates=CertificateSource(CertificateFiles(trusted)),
            timeouts=LONG_TIMEOUTS,
        )
        async with channel:
            stub = pb_grpc.JoinServiceStub(channel)
            response = await stub.Join(request, timeout=CALL_TIMEOUT_S)
    return response, keys


async def renew_certificates(
    state: HostState, tls_dir: Path, certificates: CertificateSource
) -> None:
    """Has the first host sign new keys for all of this host's certificates. Raises: MeshError."""
    roles = roles_of(state.services, runs_agent=bool(state.consul))
    keys = await asyncio.to_thread(_new_keys, roles)
    # The launcher of the first host shows the certificate of a runtime.
    channel = open_channel(
        state.renewal_address, role="runtime", certificates=certificates, timeouts=LONG_TIMEOUTS
    )
    async with channel:
        request = pb.RenewCertificatesRequest(
            host_name=state.name, certificate_requests=_messages(keys)
        )
        stub = pb_grpc.RenewalServiceStub(channel)
        response = await stub.RenewCertificates(request, timeout=CALL_TIMEOUT_S)
    write_certificates(tls_dir, response.ca_certificate, response.certificates, keys)


async def recalled_certificates(state: HostState, certificates: CertificateSource) -> Sequence[str]:
    """The fingerprints that the first host has recalled. Raises: MeshError."""
    channel = open_channel(
        state.renewal_address, role="runtime", certificates=certificates, timeouts=LONG_TIMEOUTS
    )
    async with channel:
        request = pb.ListRecalledCertificatesRequest(host_name=state.name)
        stub = pb_grpc.RenewalServiceStub(channel)
        found = await stub.ListRecalledCertificates(request, timeout=CALL_TIMEOUT_S)
    return found.fingerprints


def write_certificates(
    tls_dir: Path,
    authority: bytes,
    signed: Sequence[pb.SignedCertificate],
    keys: Sequence[NewKey],
) -> None:
    """Writes each certificate with its key; those of an earlier mesh are removed, which nobody
    renews.

    Raises: IllegalState when they cannot be written.
    """
    by_role = {key.role: key for key in keys}
    try:
        write_authority(tls_dir, authority)
        for each in signed:
            by_role[each.role].write(tls_dir, each.certificate)
        remove_other_roles(tls_dir, [each.role for each in signed])
    except OSError as error:
        raise IllegalState(f"cannot write {error.filename}: {error.strerror}") from None


def joined_state(response: pb.JoinResponse, *, name: str, address: str, consul: str) -> HostState:
    """This host's part in the mesh that it joined."""
    return HostState(
        name=name,
        address=address,
        first_host=response.first_host,
        consul=consul,
        gossip_key=response.gossip_key,
        consul_servers=tuple(response.consul_servers),
        services=tuple(response.services),
        renewal_address=response.renewal_address,
    )


def _new_keys(roles: Sequence[str]) -> list[NewKey]:
    return [NewKey.create(role) for role in roles]


def _messages(keys: Sequence[NewKey]) -> list[pb.CertificateRequest]:
    return [pb.CertificateRequest(role=key.role, csr=key.csr) for key in keys]


def _now() -> Timestamp:
    now = Timestamp()
    now.FromDatetime(datetime.now(UTC))
    return now
