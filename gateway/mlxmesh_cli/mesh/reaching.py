"""Tells failures to reach a gateway from errors that the gateway returned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.host.host_port import split_host_port
from mlxmesh_shared.rpc.health import health
from mlxmesh_shared.tls import CertificateFiles, CertificateSource

CONNECT_TIMEOUT_S = 2.0


class GatewayUnreachable(ServiceUnavailable):
    """No gateway is reachable at the address."""


@asynccontextmanager
async def gateway_errors(gateway: str, tls: CertificateFiles | None) -> AsyncGenerator[None]:
    """Turns ServiceUnavailable into GatewayUnreachable, with a hint, if the gateway is unreachable.

    Other errors are left as they are: the gateway returned them.
    """
    try:
        yield
    except ServiceUnavailable as error:
        # Subclasses come from the mesh itself.
        if type(error) is ServiceUnavailable and not await _is_reachable(gateway, tls):
            raise GatewayUnreachable(await _hint(gateway, tls)) from error
        raise


async def _is_reachable(gateway: str, tls: CertificateFiles | None) -> bool:
    certificates = CertificateSource(tls) if tls is not None else None
    return await health(gateway, role="gateway", certificates=certificates) != "unreachable"


async def _hint(gateway: str, tls: CertificateFiles | None) -> str:
    if not await _accepts_connections(gateway):
        return (
            f"no gateway listens on {gateway}; check the mesh with `mlxmesh status`, or start it"
            " with `mlxmesh up`"
        )
    if tls is None:
        return (
            f"the server on {gateway} does not respond as a gateway: it is a gateway's HTTP port,"
            " another program, or a gateway with TLS, which needs --ca, --cert and --key"
        )
    return (
        f"the server on {gateway} does not accept these certificates;"
        " `mlxmesh certs show` lists when they expire"
    )


async def _accepts_connections(gateway: str) -> bool:
    host, port = split_host_port(gateway)
    with suppress(OSError, ValueError, TimeoutError):
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        return True
    return False
