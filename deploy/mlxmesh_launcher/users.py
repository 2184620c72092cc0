"""Whether a mesh that has an access service has users."""

from __future__ import annotations

import asyncio

from mlxmesh_client import MeshClient
from mlxmesh_launcher.child import Child
from mlxmesh_launcher.readiness import until_serving
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.registry import Registry

TIMEOUT_S = 10.0
"""How long gateways wait for the answer."""


async def may_have_users(access: Child, registry: Registry, *, tls: bool) -> bool:
    """Whether there are users; True as well while the access service does not answer.

    With TLS it answers gateways only, and an admin's certificate creates the first user.
    """
    if tls:
        return True
    try:
        async with asyncio.timeout(TIMEOUT_S):
            instance = await until_serving(access, registry)
            async with MeshClient(instance.address, api_key="") as client:
                return (await client.access.sign_in_options()).has_users
    except (MeshError, TimeoutError):
        return True
