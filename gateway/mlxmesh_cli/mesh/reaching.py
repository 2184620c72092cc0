"""Whether a call failed because no gateway could be reached, or behind it."""

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
    """No gateway answers where one was looked for."""


@asynccontextmanager
async def gateway_errors(gateway: str, tls: CertificateFiles | None) -> AsyncGenerator[None]:
    """Raises GatewayUnreachable, with what to do, where that is why a call within failed.

    Every other error says itself what is wrong: the gateway answered.
    """
    try:
        yield
    except ServiceUnavailable as error:
        # A subclass is an answer of the mesh.
        if type(error) is ServiceUnavailable and not await _answers(gateway, tls):
            raise GatewayUnreachable(await _why(gateway, tls)) from error
        raise


async def _answers(gateway: str, tls: CertificateFiles | None) -> bool:
    certificates = CertificateSource(tls) if tls is not None else None
    return await health(gateway, role="gateway", certificates=certificates) != "unreachable"


async def _why(gateway: str, tls: CertificateFiles | None) -> str:
    if not await _listens(gateway):
        return (
            f"no gateway listens on {gateway}; is the mesh up?"
            " `mlxmesh status` tells, `mlxmesh up` starts it"
        )
    if tls is None:
        return (
            f"what listens on {gateway} does not answer: another program, or a gateway with TLS,"
            " which needs --ca, --cert and --key"
        )
    return (
        f"what listens on {gateway} does not accept these certificates;"
        " `mlxmesh certs show` tells until when they are good"
    )


async def _listens(gateway: str) -> bool:
    host, port = split_host_port(gateway)
    with suppress(OSError, ValueError, TimeoutError):
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        return True
    return False
