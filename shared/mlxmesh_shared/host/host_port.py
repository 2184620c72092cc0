"""Addresses as HOST:PORT, with brackets around an IPv6 address. Pure."""

import ipaddress


def split_host_port(address: str) -> tuple[str, str]:
    """The host without brackets, and the port; neither is validated, and both may be empty."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), port


def join_host_port(host: str, port: int | str) -> str:
    """The address of a host without brackets and a port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_host(host: str) -> str:
    """The host by which this machine reaches a listener; loopback for one on all addresses."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - to replace it


def is_loopback(host: str) -> bool:
    """Whether only processes on this machine can connect to the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
