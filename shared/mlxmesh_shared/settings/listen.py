"""Where a process may listen: in the clear, whoever can connect can do everything."""

import ipaddress
import re

from mlxmesh_shared.host.host_port import split_host_port

_NAME = re.compile(r"[A-Za-z0-9._-]{0,253}")


def check_listen(listen: str, *, allowed: bool) -> None:
    """Raises: ValueError when others could reach the address, unless that is allowed."""
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdigit():
        raise ValueError(f"must be host:port, for example 127.0.0.1:50051, not {listen}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"must have its IPv6 address in brackets, as in [::1]:{port}")
    if allowed or is_loopback(host):
        return
    raise ValueError(
        f"refusing to listen on {listen} without TLS: anyone who can reach it could use and change "
        "this mesh. Make certificates with `mlxmesh certs init` and name their directory with "
        "--tls-dir, or listen on 127.0.0.1, or say --insecure-listen where the network itself is "
        "protected."
    )


def check_host(host: str) -> str:
    """The host, without the brackets of an IPv6 address. Raises: ValueError when it is none."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare == host and _NAME.fullmatch(host):
        return host
    try:
        return str(ipaddress.IPv6Address(bare))
    except ValueError:
        raise ValueError(f"must be a name or an address without a port, not {host}") from None


def check_reachable(listen: str, *, advertise_host: str) -> None:
    """Raises: ValueError when nobody on another host could tell where it listens."""
    host, _ = split_host_port(listen)
    if host in ("0.0.0.0", "::") and not advertise_host:  # noqa: S104 - to refuse it
        raise ValueError(
            f"{listen} means all addresses of this host, and none that other hosts can use: set "
            "advertise_host to the name or address that they reach this host at"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
