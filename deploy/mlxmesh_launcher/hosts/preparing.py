"""Makes a data directory that of a mesh of several hosts, before its launcher starts."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import secrets
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import psutil

from mlxmesh_launcher.authority import Authority, ensure_certificates
from mlxmesh_launcher.certificate_directory import CONSUL, read_certificate
from mlxmesh_launcher.hosts import joining
from mlxmesh_launcher.hosts.admission import legal_address
from mlxmesh_launcher.hosts.agent import SERVER_NAME, agent_data_dir, check_ports, find_consul
from mlxmesh_launcher.hosts.first_host import join_certificate
from mlxmesh_launcher.hosts.join_token import JoinToken
from mlxmesh_launcher.hosts.settings_file import write_host_settings
from mlxmesh_launcher.hosts.state import (
    DEFAULT_JOIN_PORT,
    HostState,
    folder_of,
    read_state,
    write_state,
)
from mlxmesh_launcher.record import read_record
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.process.startup import check_data_dir
from mlxmesh_shared.settings import MeshSettings, load_settings

GOSSIP_KEY_BYTES = 32
Report = Callable[[str], None]


@dataclass(frozen=True)
class Choices:
    """What the owner of a host chose; None where the host decides."""

    address: str | None = None
    """The IP address at which other hosts reach this one."""
    consul: Path | None = None
    """The program of the agent that the mesh runs."""
    consul_address: str | None = None
    """host:port of an agent that runs already and is used instead."""
    join_port: int | None = None
    """Where other hosts join, on the first host."""
    certificate_lifetime_s: float | None = None
    """For how long the first host issues certificates."""


def prepare_first(data_dir: Path, choices: Choices) -> HostState:
    """Makes this host the first one of a mesh; again, it only changes what is chosen.

    Raises: IllegalState, InvalidArgument, SettingsError.
    """
    _check_idle(data_dir)
    before = read_state(data_dir)
    if before is not None and not before.is_first:
        raise IllegalState(
            f"{data_dir} belongs to a host that joined the mesh of {before.first_host}; start it"
            " with `mlxmesh up`, or choose another --data-dir"
        )
    state = _first_state(before, choices)
    if state.consul:
        check_ports(state)
    tls_dir = data_dir / "tls"
    try:
        _make_certificates(tls_dir, state)
    except OSError as error:
        raise IllegalState(f"cannot make certificates in {tls_dir}: {error.strerror}") from None
    join_certificate(data_dir)
    _write(data_dir, state, choices, _prefix(data_dir))
    return state


def _first_state(before: HostState | None, choices: Choices) -> HostState:
    name = socket.gethostname()
    address = legal_address(choices.address or (before.address if before else own_address()))
    known = before or HostState(name=name, address=address, first_host=name)
    own_agent = _consul_program(choices, known.consul if before is not None else None)
    key = known.gossip_key or base64.b64encode(secrets.token_bytes(GOSSIP_KEY_BYTES)).decode()
    return replace(
        known,
        name=name,
        first_host=name,
        address=address,
        consul=own_agent,
        gossip_key=key if own_agent else "",
        join_port=choices.join_port or known.join_port or DEFAULT_JOIN_PORT,
        certificate_lifetime_s=choices.certificate_lifetime_s or known.certificate_lifetime_s,
    )


def _consul_program(choices: Choices, before: str | None) -> str:
    """The program of the own agent; empty where another agent is used."""
    if choices.consul_address is not None:
        return ""
    if before is not None and choices.consul is None:
        return find_consul(Path(before)) if before else ""
    return find_consul(choices.consul)


async def join_mesh(
    data_dir: Path, where: str, token: JoinToken, choices: Choices, report: Report
) -> HostState:
    """Joins the mesh of a first host by a token; checks all that it can before it uses the token.

    Raises: MeshError, SettingsError.
    """
    host, port = joining.parse_where(where)
    _check_idle(data_dir)
    before = read_state(data_dir)
    if before is not None and before.is_first:
        raise IllegalState(
            f"a mesh of several hosts began in {data_dir}, so it cannot join another one; choose"
            " another --data-dir"
        )
    consul = _consul_program(choices, None)
    report(f"connecting to {host}")
    server = await asyncio.to_thread(joining.find_server, host, port, token)
    address = legal_address(choices.address or server.own_address)
    name = socket.gethostname()
    if consul:
        check_ports(HostState(name, address, first_host="", consul=consul, services=("runtime",)))
    report("joining")
    response, keys = await joining.ask_to_join(server, token, address=address, name=name)
    if consul and not response.runs_agents:
        raise IllegalState(
            f"{response.first_host} uses a Consul agent that is not the mesh's own, so this"
            " host needs an agent of that cluster too: start one; on the first host `mlxmesh hosts"
            f" remove {name}` and `mlxmesh hosts invite`; then join with --consul-address"
        )
    state = joining.joined_state(response, name=name, address=address, consul=consul)
    joining.write_certificates(
        data_dir / "tls", response.ca_certificate, response.certificates, keys
    )
    # An agent keeps the gossip key of the mesh that its host was in before.
    shutil.rmtree(agent_data_dir(folder_of(data_dir)), ignore_errors=True)
    _write(data_dir, state, choices, response.consul_prefix)
    return state


def own_address() -> str:
    """The IP address at which other hosts reach this one. Raises: IllegalState if it is unclear."""
    found = [
        address
        for addresses in psutil.net_if_addrs().values()
        for address in (_reachable(each.address) for each in addresses)
        if address is not None
    ]
    private_first = sorted(found, key=lambda one: (one.version, not one.is_private))
    best = [one for one in private_first if one.version == private_first[0].version]
    routed = _address_of_default_route()
    if routed is not None and routed in map(str, best):
        return routed
    if len(best) == 1:
        return str(best[0])
    known = ", ".join(map(str, found)) or "none"
    raise IllegalState(
        "at which address do other hosts reach this one? Name it with --advertise; this host has:"
        f" {known}"
    )


def _reachable(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address, if other hosts may reach it; other kinds of addresses are not IP."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return None if address.is_loopback or address.is_link_local else address


def _address_of_default_route() -> str | None:
    """The address that packets to other networks have; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation, RFC 5737
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _make_certificates(tls_dir: Path, state: HostState) -> None:
    lifetime = timedelta(seconds=state.certificate_lifetime_s)
    ensure_certificates(tls_dir, lifetime)
    wanted = {"gateway": [state.address]}
    if state.consul:
        wanted[CONSUL] = [SERVER_NAME, state.address]
    authority = Authority(tls_dir, lifetime)
    for role, hosts in wanted.items():
        path = tls_dir / f"{role}.crt"
        had = read_certificate(path).hosts if path.exists() else ()
        if not set(hosts) <= set(had):
            authority.issue(role, hosts=(*had, *hosts))


def _write(data_dir: Path, state: HostState, choices: Choices, prefix: str) -> None:
    write_host_settings(
        data_dir,
        state,
        tls_dir=data_dir / "tls",
        consul_address=choices.consul_address,
        prefix=prefix,
    )
    write_state(data_dir, state)


def _prefix(data_dir: Path) -> str:
    return load_settings(MeshSettings, ["--data-dir", str(data_dir)]).consul.prefix


def _check_idle(data_dir: Path) -> None:
    check_data_dir(data_dir)
    if read_record(data_dir) is not None:
        raise IllegalState(
            f"a mesh runs in {data_dir}; stop it with `mlxmesh down --data-dir {data_dir}` first"
        )
