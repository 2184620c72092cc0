"""Addresses as HOST:PORT, where an IPv6 address has brackets. Pure."""


def split_host_port(address: str) -> tuple[str, str]:
    """The host without brackets, and the port; either may be empty, or no host and no number."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), port


def join_host_port(host: str, port: int | str) -> str:
    """The address of a port at a host that has no brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
