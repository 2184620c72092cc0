"""What only the first host of a mesh does: it invites hosts, lets them join, and renews them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from mlxmesh_launcher.authority import write_self_signed
from mlxmesh_launcher.hosts.admission import Admission
from mlxmesh_launcher.hosts.invitations import DEFAULT_LIFETIME_S, Invitation, Invitations
from mlxmesh_launcher.hosts.join_servicers import join_server, renewal_server
from mlxmesh_launcher.hosts.join_token import JoinToken
from mlxmesh_launcher.hosts.recalling import Recalled
from mlxmesh_launcher.hosts.reports import HostReports
from mlxmesh_launcher.hosts.state import (
    DEFAULT_SERVICES,
    HostState,
    Member,
    Members,
    folder_of,
    renewal_address_of,
)
from mlxmesh_shared.errors import IllegalState, InvalidArgument, MeshError, NotFound
from mlxmesh_shared.host.host_port import join_host_port
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.settings import SETTINGS
from mlxmesh_shared.tls import CertificateFiles, CertificateSource, ServerTls

JOIN_NAME = "join.mlxmesh"
CHECK_INTERVAL_S = 1.0
# A host that is being admitted gets its response.
CLOSE_GRACE_S = 10.0

_log = logging.getLogger(__name__)

Forget = Callable[[str], Awaitable[None]]
"""Removes a host from Consul's list, as far as it can."""


class FirstHost:
    """Satisfies HostControl of the launcher's servicer, once started."""

    def __init__(
        self,
        state: HostState,
        data_dir: Path,
        tls_dir: Path,
        registry: Registry,
        *,
        consul_prefix: str,
        forget: Forget,
        reports: HostReports,
    ) -> None:
        """Raises: IllegalState when what was stored cannot be read."""
        self._state = state
        self._join_files = join_certificate(data_dir)
        self._tls_dir = tls_dir
        self._registry = registry
        self._prefix = consul_prefix
        self._forget = forget
        self._reports = reports
        self._invitations = Invitations(folder_of(data_dir), time.time)
        self._members = Members(data_dir)
        self._recalled = Recalled(folder_of(data_dir), tls_dir, time.time)
        self._admission = Admission(state, self._invitations, self._members, tls_dir, reports)
        self._renewal: MeshServer | None = None
        self._join: MeshServer | None = None
        self._changing = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None

    @property
    def join_address(self) -> str:
        """host:port where hosts join."""
        return join_host_port(self._state.address, self._state.join_port)

    @property
    def renewal_address(self) -> str:
        """host:port where hosts renew their certificates."""
        return renewal_address_of(self._state)

    async def start(self) -> None:
        """Serves renewals, and hosts that join while invitations are open. Raises: IllegalState."""
        runtime = CertificateSource(CertificateFiles.of_role(self._tls_dir, "runtime"))
        self._renewal = renewal_server(
            self._admission,
            self._recalled.current,
            listen=self.renewal_address,
            tls=ServerTls(runtime),
        )
        await self._renewal.start()
        await self._renewal.set_serving()
        self._closing = asyncio.create_task(self._close_when_unused(), name="close-join-port")

    async def stop(self) -> None:
        """Stops both servers; invitations stay open until they expire."""
        if self._closing is not None:
            self._closing.cancel()
            await asyncio.gather(self._closing, return_exceptions=True)
        servers = [server for server in (self._join, self._renewal) if server is not None]
        self._join = self._renewal = None
        await asyncio.gather(*(server.drain(CLOSE_GRACE_S, settle_s=0) for server in servers))

    async def invite(
        self, services: Sequence[str], lifetime_s: float, actor: str
    ) -> tuple[Invitation, str]:
        """A new invitation and its token; returns once hosts can join. Raises: MeshError."""
        chosen = tuple(dict.fromkeys(services)) or DEFAULT_SERVICES
        if "runtime" not in chosen:
            raise InvalidArgument("must include runtime, which runs the engines", field="services")
        await self._open()
        invitation, secret = self._invitations.create(chosen, lifetime_s or DEFAULT_LIFETIME_S)
        self._reports.invited(invitation, actor)
        token = JoinToken(invitation.id, secret, fingerprint_of(self._join_files.ca))
        return invitation, token.encode()

    def invitations(self) -> list[Invitation]:
        """Those of the last day, the newest first."""
        return self._invitations.all()

    def revoke(self, invitation_id: str) -> None:
        """Raises: NotFound when no such invitation is open."""
        self._invitations.revoke(invitation_id)

    def hosts(self) -> list[Member]:
        """The hosts that joined, by name."""
        return self._members.all()

    async def remove(self, name: str, actor: str, *, force: bool = False) -> None:
        """Removes a host that has stopped, or one that is forced out.

        Raises: NotFound, IllegalState; RegistryUnavailable when nobody knows whether it has.
        """
        if (member := self._members.get(name)) is None:
            raise NotFound(f"no host named {name} joined this mesh; `mlxmesh hosts` lists them")
        if not force:
            await self._check_stopped(name)
        self._recalled.add(member.issued)
        self._members.remove(name)
        self._reports.removed(member, actor)
        await self._forget(name)

    async def _check_stopped(self, name: str) -> None:
        found = await asyncio.gather(
            *(self._registry.resolve(each) for each in SETTINGS if each != "mesh")
        )
        here = [one for each in found for one in each if one.metadata.get("host") == name]
        if here:
            running = ", ".join(sorted({one.service for one in here}))
            raise IllegalState(
                f"host {name} still runs {running}; stop it with `mlxmesh down` there, then remove"
                " it, or add --force if nobody can"
            )

    def described(self) -> tuple[HostState, str]:
        """What a host that joins has to know: this host's part, and the prefix in Consul."""
        return self._state, self._prefix

    async def _open(self) -> None:
        async with self._changing:
            if self._join is not None:
                return
            tls = ServerTls(CertificateSource(self._join_files), client_certificates=False)
            server = join_server(self._admission, self.described, listen=self.join_address, tls=tls)
            await server.start()
            await server.set_serving()
            self._join = server
            _log.info("hosts may join at %s", self.join_address)

    async def _close_when_unused(self) -> None:
        """Opens the port after a restart with open invitations; closes it with the last one."""
        while True:
            try:
                if self._invitations.open():
                    await self._open()
                else:
                    await self._close()
            except MeshError as error:
                _log.error("hosts cannot join: %s", error)
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def _close(self) -> None:
        async with self._changing:
            # One may have been made while this waited.
            if self._join is None or self._invitations.open():
                return
            server, self._join = self._join, None
            await server.drain(CLOSE_GRACE_S, settle_s=0)
            _log.info("no invitation is open any more: %s is closed", self.join_address)


def join_certificate(data_dir: Path) -> CertificateFiles:
    """The certificate that hosts that join know by its fingerprint; made with the first use."""
    stem = folder_of(data_dir) / "join"
    certificate, key = stem.with_name("join.crt"), stem.with_name("join.key")
    try:
        if not (certificate.exists() and key.exists()):
            write_self_signed(stem, JOIN_NAME)
    except OSError as error:
        raise IllegalState(f"cannot write {error.filename}: {error.strerror}") from None
    return CertificateFiles(certificate, certificate, key)


def fingerprint_of(certificate: Path) -> bytes:
    """The SHA-256 of a certificate in DER."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).digest()
