"""How a request's bytes become a checked message without holding up the calls of others."""

from mlxmesh_shared.rpc.requests.arrivals import Arrivals
from mlxmesh_shared.rpc.requests.parser import HeldBytes, RequestParser, Turns, finish_in_thread
from mlxmesh_shared.rpc.requests.receiver import Receiver

__all__ = ["Arrivals", "HeldBytes", "Receiver", "RequestParser", "Turns", "finish_in_thread"]
