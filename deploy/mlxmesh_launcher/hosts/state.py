"""What a data directory knows of a mesh of several hosts: this host's part, and who joined."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.host.atomic_file import write_atomically
from mlxmesh_shared.host.host_port import join_host_port

FOLDER = "hosts"
DATACENTER = "dc1"
DEFAULT_JOIN_PORT = 50052
DEFAULT_CERTIFICATE_LIFETIME_S = 90 * 86_400.0
SERVICES = ("runtime", "generation", "gateway", "worker")
"""What a host that joins may run; the others have a database on the first host."""
DEFAULT_SERVICES = SERVICES[:3]


@dataclass(frozen=True)
class HostState:
    """This host's part in a mesh of several hosts."""

    name: str
    """Its host name, as in the registry."""
    address: str
    """The IP address at which other hosts reach it, without brackets."""
    first_host: str
    """The name of the host where the mesh began."""
    consul: str = ""
    """The Consul program of its own agent; empty where it uses an agent that is there already."""
    gossip_key: str = field(default="", repr=False)
    """Of the mesh's own agents, in base64."""
    consul_servers: tuple[str, ...] = ()
    """Addresses that its agent joins; empty on the first host."""
    services: tuple[str, ...] = ()
    """What it runs; empty on the first host, which runs everything that the mesh uses."""
    join_port: int = DEFAULT_JOIN_PORT
    """On the first host: where hosts join while there are invitations; they renew certificates on
    the next port."""
    certificate_lifetime_s: float = DEFAULT_CERTIFICATE_LIFETIME_S
    """On the first host: for how long it issues certificates, for itself and hosts that join."""
    renewal_address: str = ""
    """host:port where certificates are renewed; empty on the first host."""

    @property
    def is_first(self) -> bool:
        """Whether the mesh began here: authority, model service and databases are here."""
        return not self.services


def renewal_address_of(state: HostState) -> str:
    """host:port where the first host, whose part this is, renews certificates."""
    return join_host_port(state.address, state.join_port + 1)


def folder_of(data_dir: Path) -> Path:
    """The folder of a mesh of several hosts in a data directory."""
    return data_dir / FOLDER


def read_state(data_dir: Path) -> HostState | None:
    """None for a mesh on one host. Raises: IllegalState for a file that cannot be used."""
    path = folder_of(data_dir) / "host.json"
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        return HostState(**content | _tuples(content, "consul_servers", "services"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IllegalState(
            f"{path} cannot be read ({type(error).__name__}); let this host join again with"
            " `mlxmesh up --join`, or on the first host start with `mlxmesh up --hosts`"
        ) from None


def services_here(data_dir: Path) -> tuple[str, ...]:
    """What runs on a host that joined; empty for everything, also if that cannot be read."""
    try:
        state = read_state(data_dir)
    except IllegalState:
        return ()
    return state.services if state is not None else ()


def write_state(data_dir: Path, state: HostState) -> None:
    """Stores this host's part. Raises: IllegalState when it cannot be written."""
    _write(folder_of(data_dir) / "host.json", asdict(state))


@dataclass(frozen=True)
class Member:
    """A host that joined. Times are seconds since the epoch."""

    name: str
    address: str
    services: tuple[str, ...]
    joined_s: float
    key_hashes: tuple[str, ...]
    """The SHA-256 of the public keys of its runtime's certificates, by which it may renew: of the
    last renewal the certificate that was shown, and the new one, which may not have arrived."""
    expires_s: float
    """When its certificates expire."""
    issued: Mapping[str, float] = field(default_factory=dict[str, float])
    """When each of its certificates expires, by fingerprint."""


class Members:
    """The hosts that joined, in a file."""

    def __init__(self, data_dir: Path) -> None:
        """Raises: IllegalState for a file that cannot be used."""
        self._path = folder_of(data_dir) / "members.json"
        self._by_name = _read_members(self._path)

    def get(self, name: str) -> Member | None:
        """The host of that name."""
        return self._by_name.get(name)

    def all(self) -> list[Member]:
        """By name."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def put(self, member: Member) -> None:
        """Adds a host, or replaces what is known of it."""
        self._store({**self._by_name, member.name: member})

    def remove(self, name: str) -> None:
        """Forgets a host that is known."""
        self._store({each: self._by_name[each] for each in self._by_name if each != name})

    def _store(self, members: Mapping[str, Member]) -> None:
        _write(self._path, [asdict(each) for each in members.values()])
        self._by_name = dict(members)


def _read_members(path: Path) -> dict[str, Member]:
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_bytes())
        found = [Member(**row | _tuples(row, "services", "key_hashes")) for row in rows]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IllegalState(
            f"{path} cannot be read ({type(error).__name__}); restore it, or remove it and let the"
            " other hosts join again"
        ) from None
    return {each.name: each for each in found}


def _tuples(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """These lists of a JSON object as tuples."""
    return {name: tuple(row[name]) for name in names}


def _write(path: Path, content: object) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=1).encode(), mode=0o600)
    except OSError as error:
        raise IllegalState(f"cannot write {path}: {error.strerror}") from None
