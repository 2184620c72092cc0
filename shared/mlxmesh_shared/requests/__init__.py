"""How a request's bytes become a checked message without holding up the calls of others."""

from mlxmesh_shared.requests.arrivals import Arrivals
from mlxmesh_shared.requests.held_bytes import HeldBytes
from mlxmesh_shared.requests.parser import RequestParser
from mlxmesh_shared.requests.receiver import Receiver
from mlxmesh_shared.requests.threads import finish_in_thread
from mlxmesh_shared.requests.turns import Turns

__all__ = ["Arrivals", "HeldBytes", "Receiver", "RequestParser", "Turns", "finish_in_thread"]
