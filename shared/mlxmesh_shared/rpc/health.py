"""Checks the health of a peer by its health service."""

import grpc
from grpc_health.v1 import health_pb2

from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, open_channel
from mlxmesh_shared.tls import CertificateSource

PROBE_TIMEOUT_S = 2.0


async def health(
    address: str,
    *,
    role: str = "",
    certificates: CertificateSource | None = None,
    timeout_s: float = PROBE_TIMEOUT_S,
) -> str:
    """`serving` or `not_serving` as the health check reports, or `unreachable`.

    role, certificates: as of open_channel.
    """
    async with open_channel(
        address, role=role, certificates=certificates, timeouts=LONG_TIMEOUTS
    ) as channel:
        return await health_by(channel, timeout_s=timeout_s)


async def health_by(channel: grpc.aio.Channel, *, timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """Like `health`, on an open channel."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    try:
        response = await check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
    except (grpc.aio.AioRpcError, MeshError):
        return "unreachable"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status).lower()
