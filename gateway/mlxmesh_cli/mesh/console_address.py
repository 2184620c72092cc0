"""Where the console of a mesh is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxmesh_launcher.record import LauncherRecord

ANY_HOST = frozenset({"0.0.0.0", "[::]"})  # noqa: S104


def console_address(record: LauncherRecord) -> str | None:
    """The URL that a browser on this host opens; None where the gateway has no HTTP."""
    return http_url(record.http, tls=bool(record.tls_dir)) if record.http else None


def http_url(http: str, *, tls: bool) -> str:
    """The URL of host:port, for a program on this host."""
    host, _, port = http.rpartition(":")
    reached = "127.0.0.1" if host in ANY_HOST else host
    return f"{'https' if tls else 'http'}://{reached}:{port}"
