"""Creates users; the first one turns authentication on and leaves this command line with a key."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlxmesh.access.v1.access_pb2 import User
from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.session import connect, credential_file, gateway_address, tls_of
from mlxmesh_cli.mesh.access_start import sign_in_options, start_access
from mlxmesh_cli.mesh.credentials import CredentialFile, StoredKey
from mlxmesh_cli.mesh.location import resolve_data_dir, settings_flags
from mlxmesh_cli.mesh.sign_in import anonymous_client, insecure_key
from mlxmesh_client import MeshClient
from mlxmesh_launcher.service_settings import uses_access
from mlxmesh_shared.settings import AccessSettings, load_settings

if TYPE_CHECKING:
    from mlxmesh_client.access_requests import Kind, Role
    from mlxmesh_shared.tls import CertificateFiles


@dataclass(frozen=True)
class NewUser:
    """The user to create."""

    name: str
    password: str
    kind: Kind
    role: Role
    team: str


@dataclass(frozen=True)
class Created:
    """The created user, and what the owner of the mesh should know now."""

    user: User
    notes: tuple[str, ...] = ()


async def create_user(new: NewUser, address: str | None, data_dir: Path | None) -> Created:
    """Creates a user, and starts the access service for it if there is none. Raises: MeshError."""
    gateway = gateway_address(address, data_dir)
    directory = resolve_data_dir(data_dir)
    tls = tls_of(directory, gateway)
    async with connect(address, data_dir) as client:
        options = await sign_in_options(client)
        if options is None:
            if not _uses_access(directory, tls):
                _check_first(new)  # before the service makes its database
            options = await start_access(client, directory, gateway, tls)
        if not options.has_users:
            _check_first(new)
        user = await client.access.create_user(
            new.name, password=new.password, kind=new.kind, role=new.role, team=new.team
        )
    if options.has_users:
        return Created(user, _notes(new))
    if tls is not None:
        return Created(user, ("commands on this host go on with the certificate of an admin",))
    on = "authentication is on: every call, by any protocol, needs a key or a session now"
    stored = await _store_key(new, gateway, tls, credential_file(address, data_dir))
    return Created(user, (on, stored, "next: `mlxmesh keys create NAME` makes a key for a program"))


def _uses_access(data_dir: Path, tls: CertificateFiles | None) -> bool:
    # A mesh with TLS may listen where the same settings without it may not.
    secured = ["--tls-dir", str(tls.ca.parent)] if tls is not None else []
    return uses_access(load_settings(AccessSettings, [*settings_flags(data_dir), *secured]))


def _check_first(new: NewUser) -> None:
    """Ends the command unless the user can be the first one."""
    if new.kind != "person" or new.role != "admin":
        fail(
            "the first user of a mesh must be a person with the role admin, who can create the"
            " others: `mlxmesh users create NAME --admin`",
            reason="ILLEGAL_STATE",
        )


def _notes(new: NewUser) -> tuple[str, ...]:
    if new.kind == "person":
        return ()
    return (f"next: `mlxmesh keys create NAME --user {new.name}` makes a key for it",)


async def _store_key(
    new: NewUser, gateway: str, tls: CertificateFiles | None, file: CredentialFile
) -> str:
    """Creates and stores a key of the user for this command line; returns a line about it."""
    async with anonymous_client(gateway, tls) as client:
        tokens = await client.access.sign_in(new.name, new.password)
    async with MeshClient(
        gateway, tls=tls, api_key=tokens.access_token, insecure_key=insecure_key()
    ) as client:
        created = await client.access.create_key(f"mlxmesh on {socket.gethostname()}", role="admin")
        await client.access.sign_out(tokens.refresh_token)
    file.write(StoredKey(new.name, created.key.key_id, created.secret))
    return (
        f"commands with this data directory use a key of {new.name}, {created.key.key_id}, which is"
        f" stored in {file.path}; `mlxmesh logout` revokes it"
    )
