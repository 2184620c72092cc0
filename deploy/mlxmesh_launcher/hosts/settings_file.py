"""Writes the settings of a host in a mesh of several into mlxmesh.toml, beside what is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from mlxmesh_launcher.certificate_directory import CONSUL
from mlxmesh_launcher.hosts.agent import HTTPS_PORT
from mlxmesh_launcher.hosts.state import HostState
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.host.atomic_file import write_atomically
from mlxmesh_shared.host.host_port import is_loopback, split_host_port

GATEWAY_PORT = 50051
_LISTENERS = (
    *("gateway", "generation", "model", "access", "jobs", "worker", "tools", "runtime", "engine"),
)


def write_host_settings(
    data_dir: Path, state: HostState, *, tls_dir: Path, consul_address: str | None, prefix: str
) -> None:
    """Writes what the services of this host need to find those of others and to be found.

    Listeners that the file has stay as they are unless they are on a loopback address.
    Raises: IllegalState for a file that cannot be read or written.
    """
    if "MLXMESH_CONFIG" in os.environ:
        raise IllegalState(
            "unset MLXMESH_CONFIG: a mesh of several hosts keeps its settings in mlxmesh.toml of"
            f" the data directory {data_dir}"
        )
    path = data_dir / "mlxmesh.toml"
    try:
        exists = path.exists()
        text = path.read_text() if exists else ""
        document = tomlkit.parse(text)
        _set(document, "mesh", _mesh_settings(state, tls_dir))
        agent = _consul_settings(state, tls_dir, consul_address, prefix)
        _set(document, "consul", agent)
        for name in _LISTENERS:
            _set_listener(document, name, state)
        data_dir.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if exists else 0o644
        write_atomically(path, tomlkit.dumps(document).encode(), mode=mode)
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise IllegalState(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise IllegalState(f"cannot write {path}: {error.strerror}") from None


def _mesh_settings(state: HostState, tls_dir: Path) -> dict[str, Any]:
    return {"registry": "consul", "tls_dir": str(tls_dir), "advertise_host": state.address}


def _consul_settings(
    state: HostState, tls_dir: Path, consul_address: str | None, prefix: str
) -> dict[str, Any]:
    """How services reach the agent; where it is not the mesh's own, the rest is its owner's."""
    named = {"prefix": prefix}
    if not state.consul:
        return {**named, **({"address": consul_address} if consul_address else {})}
    return {
        **named,
        "address": f"127.0.0.1:{HTTPS_PORT}",
        "ca": str(tls_dir / "ca.crt"),
        "cert": str(tls_dir / f"{CONSUL}.crt"),
        "key": str(tls_dir / f"{CONSUL}.key"),
    }


def _set_listener(document: tomlkit.TOMLDocument, service: str, state: HostState) -> None:
    table = cast("Mapping[str, Any]", document.unwrap().get(service, {}))
    chosen = str(table.get("listen", ""))
    host, port = split_host_port(chosen)
    if chosen and not is_loopback(host):
        return
    anywhere = "[::]" if ":" in state.address else "0.0.0.0"  # noqa: S104 - with TLS
    default = str(GATEWAY_PORT) if service == "gateway" else "0"
    _set(document, service, {"listen": f"{anywhere}:{port or default}"})


def _set(document: tomlkit.TOMLDocument, name: str, values: Mapping[str, Any]) -> None:
    if name not in document:
        document.add(name, tomlkit.table())
    table = cast("Table", document[name])
    for key, value in values.items():
        table[key] = value
