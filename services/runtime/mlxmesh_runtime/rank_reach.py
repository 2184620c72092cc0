"""Whether a rank on this host can reach rank 0 of its group. Pure but for `own_addresses`."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import unquote

import psutil

from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.host.host_port import is_loopback, split_host_port


def check_reach(leader: str, peer: str, own: Collection[str]) -> None:
    """Raises: IllegalState when rank 0 listens on the loopback address of another host.

    leader: where rank 0 listens. peer: gRPC's name of the runtime that asks, which runs rank 0.
    own: the addresses of this host.
    """
    host, _ = split_host_port(leader)
    caller = _address(peer)
    if not is_loopback(host) or caller is None or is_loopback(caller) or caller in own:
        return
    raise IllegalState(
        f"rank 0 listens on {leader}, which only its own host reaches: set [engine] group_listen"
        " in mlxmesh.toml of every host to an address that the others reach, and restart the"
        " runtimes; docs/groups.md has the details"
    )


def own_addresses() -> set[str]:
    """The IP addresses of this host's network interfaces."""
    found = psutil.net_if_addrs().values()
    return {each.address.partition("%")[0] for addresses in found for each in addresses}


def _address(peer: str) -> str | None:
    """The IP address of a peer such as ipv4:10.0.0.1:50051; None for another kind."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    parsed = ipaddress.ip_address(unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
