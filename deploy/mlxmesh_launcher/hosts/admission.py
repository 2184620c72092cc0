"""The first host's decisions: who joins, and whose certificates are signed."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from mlxmesh_launcher.authority import Authority
from mlxmesh_launcher.certificate_directory import CONSUL, key_hash
from mlxmesh_launcher.hosts.attempts import FailedAttempts
from mlxmesh_launcher.hosts.invitations import Invitations
from mlxmesh_launcher.hosts.reports import HostReports
from mlxmesh_launcher.hosts.state import HostState, Member, Members
from mlxmesh_shared.errors import (
    IllegalState,
    InvalidArgument,
    MeshError,
    NameInUse,
    PermissionDenied,
    Unauthenticated,
)
from mlxmesh_shared.tls.recalled import fingerprint

MAX_CLOCK_DIFFERENCE_S = 300.0
RUNTIME = "runtime"


@dataclass(frozen=True)
class Candidate:
    """What a host that wants to join says of itself."""

    invitation_id: str
    secret: bytes = field(repr=False)
    name: str
    address: str
    version: str
    local_time_s: float
    """Its clock, in seconds since the epoch."""
    requests: Mapping[str, bytes]
    """By role, a certificate request in DER."""


@dataclass(frozen=True)
class Admitted:
    """What a host that joined gets."""

    ca: bytes
    """PEM."""
    certificates: Mapping[str, bytes]
    """PEM, by role."""
    services: tuple[str, ...]


class Admission:
    """Admits hosts by invitations, and renews the certificates of those that it admitted."""

    def __init__(
        self,
        state: HostState,
        invitations: Invitations,
        members: Members,
        tls_dir: Path,
        reports: HostReports,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        own_version: str = "",
    ) -> None:
        """`clock` returns seconds since the epoch. `tls_dir` has the authority."""
        self._state = state
        self._invitations = invitations
        self._members = members
        self._tls_dir = tls_dir
        self._reports = reports
        self._clock = clock
        self._failures = FailedAttempts(monotonic)
        self._version = own_version or version("mlxmesh")

    def admit(self, candidate: Candidate, peer: str) -> Admitted:
        """Lets a host join, and uses its invitation up; after an error it stays open.

        `peer` is the address that the host calls from. Raises: TooManyRequests, Unauthenticated,
        IllegalState, NameInUse, InvalidArgument.
        """
        self._failures.check(peer)
        try:
            member, admitted = self._admit(candidate, peer)
        except MeshError as error:
            self._reports.refused(candidate.name, peer, candidate.invitation_id, error)
            raise
        self._members.put(member)
        self._reports.joined(member, candidate.invitation_id)
        return Admitted(self._authority().certificate(), admitted, member.services)

    def _admit(self, candidate: Candidate, peer: str) -> tuple[Member, dict[str, bytes]]:
        try:
            invitation = self._invitations.verify(candidate.invitation_id, candidate.secret)
        except Unauthenticated:
            self._failures.record(peer)
            raise
        self._check_version(candidate.version)
        self._check_clock(candidate.local_time_s)
        self._check_name(candidate.name)
        address = legal_address(candidate.address)
        runs_agent = bool(self._state.consul)
        roles = roles_of(invitation.services, runs_agent=runs_agent)
        admitted = self._sign(roles, candidate.requests, candidate.name, address)
        self._invitations.use(invitation.id, candidate.name)
        joined_s = self._clock()
        member = Member(
            name=candidate.name,
            address=address,
            services=invitation.services,
            joined_s=joined_s,
            key_hashes=(key_hash(admitted[RUNTIME]),),
            expires_s=joined_s + self._state.certificate_lifetime_s,
            issued=self._issued(admitted),
        )
        return member, admitted

    def renew(self, name: str, requests: Mapping[str, bytes], peer_certificate: bytes) -> Admitted:
        """New certificates for a host. Its runtime's certificate, PEM, shows which host asks.

        Raises: PermissionDenied, InvalidArgument.
        """
        member = self.member(name, peer_certificate)
        shown = key_hash(peer_certificate)
        roles = roles_of(member.services, runs_agent=bool(self._state.consul))
        signed = self._sign(roles, requests, name, member.address)
        expires_s = self._clock() + self._state.certificate_lifetime_s
        key_hashes = (shown, key_hash(signed[RUNTIME]))
        valid = {each: at_s for each, at_s in member.issued.items() if at_s > self._clock()}
        issued = {**valid, **self._issued(signed)}
        self._members.put(
            replace(member, key_hashes=key_hashes, expires_s=expires_s, issued=issued)
        )
        return Admitted(self._authority().certificate(), signed, member.services)

    def member(self, name: str, peer_certificate: bytes) -> Member:
        """The host that asks, as its runtime's certificate shows. Raises: PermissionDenied."""
        member = self._members.get(name)
        if member is None:
            raise PermissionDenied(
                f"host {name} is not in this mesh, or was removed; let it join with a token of"
                " `mlxmesh hosts invite`"
            )
        if key_hash(peer_certificate) not in member.key_hashes:
            raise PermissionDenied(f"this certificate is not that of host {name}")
        return member

    def _issued(self, certificates: Mapping[str, bytes]) -> dict[str, float]:
        # A little longer than they are valid: the clock goes on while they are signed.
        expires_s = self._clock() + self._state.certificate_lifetime_s + MAX_CLOCK_DIFFERENCE_S
        return {fingerprint(each): expires_s for each in certificates.values()}

    def _check_version(self, other: str) -> None:
        if _compatible(other) != _compatible(self._version):
            raise IllegalState(
                f"the first host runs mlxmesh {self._version}, and this one {other}; install the"
                " same version on both, then try again with the same token"
            )

    def _check_clock(self, local_time_s: float) -> None:
        ahead_s = local_time_s - self._clock()
        if abs(ahead_s) <= MAX_CLOCK_DIFFERENCE_S:
            return
        word = "ahead of" if ahead_s > 0 else "behind"
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")
        raise IllegalState(
            f"this host's clock is {abs(ahead_s):.0f} s {word} that of the first host, which says"
            f" {now}; set the clocks (NTP), then try again with the same token"
        )

    def _check_name(self, name: str) -> None:
        if name == self._state.name:
            raise NameInUse(
                f"the first host is named {name} too; give this host another host name, then try"
                " again with the same token",
                field="host_name",
            )
        if self._members.get(name) is not None:
            raise NameInUse(
                f"a host named {name} joined before; on the first host `mlxmesh hosts remove"
                f" {name}` if it is this one or is gone, then try again with the same token",
                field="host_name",
            )

    def _sign(
        self, roles: Sequence[str], requests: Mapping[str, bytes], name: str, address: str
    ) -> dict[str, bytes]:
        if missing := [role for role in roles if role not in requests]:
            raise InvalidArgument(
                f"there is no certificate request for {', '.join(missing)}",
                field="certificate_requests",
            )
        authority = self._authority()
        hosts = (*_own_names(name), address)
        return {role: authority.sign(role, requests[role], hosts=hosts) for role in roles}

    def _authority(self) -> Authority:
        return Authority(self._tls_dir, timedelta(seconds=self._state.certificate_lifetime_s))


def roles_of(services: Sequence[str], *, runs_agent: bool) -> tuple[str, ...]:
    """The certificates of a host that runs these services.

    A gateway speaks for every caller, so a host that runs one could do what an admin can anyway;
    commands on it act as admin.
    """
    admin = ("admin",) if "gateway" in services else ()
    agent = (CONSUL,) if runs_agent else ()
    return (*services, "engine", "client", *admin, *agent)


def legal_address(address: str) -> str:
    """An IP address at which other hosts can reach one. Raises: InvalidArgument."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        parsed = None
    if parsed is None or parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast:
        raise InvalidArgument(
            "must be an IP address at which other hosts reach this one (--advertise)",
            field="address",
        )
    return str(parsed)


def _own_names(name: str) -> tuple[str, ...]:
    """The host name for its certificates, unless it is one that proves something else.

    Consul knows its servers by server.DATACENTER.consul, and services are ROLE.mlxmesh.
    """
    reserved = name.lower().endswith((".consul", ".mlxmesh"))
    return () if reserved or "_" in name else (name,)


def _compatible(text: str) -> tuple[str, ...]:
    """What must be equal of two versions: before 1.0, minor versions may change contracts."""
    return tuple(text.split(".")[:2])
