"""The error that a channel raises when its peer is gone."""

import grpc
from grpc import aio

from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.error_status import from_rpc_error


def lost(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> MeshError:
    """A status of gRPC's own making: it has no details of a service."""
    cause = aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), "connection refused")
    error = from_rpc_error(cause)
    error.__cause__ = cause
    return error
