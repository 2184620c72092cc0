"""As whom a command calls a mesh, and how it proves that."""

from __future__ import annotations

import os
from typing import Any

from mlxmesh_cli.mesh.access_start import sign_in_options
from mlxmesh_cli.mesh.credentials import CredentialFile, StoredKey
from mlxmesh_cli.screen.output import to_dict
from mlxmesh_client import MeshClient, UserNotFound
from mlxmesh_client.credentials import API_KEY_VARIABLE

CERTIFICATE = "certificate"


def proof_of(file: CredentialFile, *, has_certificate: bool) -> str:
    """What a command presents, in words; empty for nothing. Raises: IllegalState."""
    if os.environ.get(API_KEY_VARIABLE):
        return f"the key in {API_KEY_VARIABLE}"
    found = file.read()
    if isinstance(found, StoredKey):
        return f"the stored key {found.key_id}"
    if found is not None:
        return "a session"
    return CERTIFICATE if has_certificate else ""


async def identity(client: MeshClient, proof: str) -> dict[str, Any]:
    """`user` is None for a caller that is none, such as a certificate, and where there are no
    users; `has_users` is None while the access service does not answer. Raises: MeshError.
    """
    options = await sign_in_options(client)
    facts = {"by": proof, "has_users": options.has_users if options is not None else None}
    if options is None or not options.has_users:
        return {"user": None, **facts}
    try:
        return {"user": to_dict(await client.access.get_user()), **facts}
    except UserNotFound:
        return {"user": None, **facts}


def identity_line(facts: dict[str, Any]) -> str:
    """The identity in words."""
    user, proof = facts["user"], facts["by"]
    if user is not None:
        return f"{user['name']} ({user['role']}), by {proof}"
    if proof == CERTIFICATE:
        return "no user: a certificate of this mesh"
    if facts["has_users"] is None and proof:
        return f"unknown, by {proof}: no access service answers"
    return "nobody: this mesh has no users, so everybody who reaches it may do everything"
