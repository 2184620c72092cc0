"""Where a process may listen: without TLS, anyone who can connect can do everything."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from mlxmesh_shared.host.host_port import is_loopback, split_host_port

_NAME = re.compile(r"[A-Za-z0-9._-]{0,253}")


def check_listen(listen: str, *, allowed: bool) -> None:
    """Raises: ValueError when other hosts could reach the address and that is not allowed."""
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
        "--tls-dir, or listen on 127.0.0.1, or set --insecure-listen if the network itself is "
        "protected."
    )


def check_host(host: str) -> str:
    """The host without the brackets of an IPv6 address. Raises: ValueError for anything else."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare == host and _NAME.fullmatch(host):
        return host
    try:
        return str(ipaddress.IPv6Address(bare))
    except ValueError:
        raise ValueError(f"must be a name or an address without a port, not {host}") from None


def check_reachable(listen: str, *, advertise_host: str) -> None:
    """Raises: ValueError when the address means nothing on another host."""
    host, _ = split_host_port(listen)
    if host in ("0.0.0.0", "::") and not advertise_host:  # noqa: S104 - to refuse it
        raise ValueError(
            f"{listen} means all addresses of this host, so other hosts do not know which to use: "
            "set advertise_host to the name or address at which they reach this host"
        )


def _allowed(listen: str, info: ValidationInfo) -> str:
    # The mesh's own settings precede a section's, so they are validated by now.
    secured = info.data.get("tls_dir") is not None
    check_listen(listen, allowed=secured or info.data.get("insecure_listen", False))
    return listen


def _reachable(listen: str, info: ValidationInfo) -> str:
    if info.data.get("registry") == "consul":
        check_reachable(listen, advertise_host=info.data.get("advertise_host", ""))
    return listen


def _http_listen(listen: str, info: ValidationInfo) -> str:
    if listen == "auto":
        any_port = str(info.data.get("listen", "")).endswith(":0")
        return "127.0.0.1:0" if any_port else "127.0.0.1:8051"
    return _allowed(listen, info) if listen else listen


Listen = Annotated[str, AfterValidator(_allowed), AfterValidator(_reachable)]
HttpListen = Annotated[str, AfterValidator(_http_listen)]
