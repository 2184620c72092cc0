"""Asking a process to leave, as `mlxmesh drain` does."""

from mlxmesh.control.v1.control_pb2 import DrainRequest
from mlxmesh.control.v1.control_pb2_grpc import ControlServiceStub
from mlxmesh_shared.rpc.channels import open_channel


async def drain(address: str) -> None:
    """Calls Drain at an address."""
    async with open_channel(address) as channel:
        await ControlServiceStub(channel).Drain(DrainRequest(), timeout=10)
