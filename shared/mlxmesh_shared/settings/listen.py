"""Where a process may listen: in the clear, whoever can connect can do everything."""

import ipaddress


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


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
