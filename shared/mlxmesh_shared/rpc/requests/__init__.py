"""Turns the bytes of requests into checked messages without delaying the calls of others."""

from mlxmesh_shared.rpc.requests.parser import FairLock, HeldBytes, RequestParser, finish_in_thread
from mlxmesh_shared.rpc.requests.reader import RequestReader
from mlxmesh_shared.rpc.requests.receiver import Receiver

__all__ = [
    "FairLock",
    "HeldBytes",
    "Receiver",
    "RequestParser",
    "RequestReader",
    "finish_in_thread",
]
