"""Where the gateway of a mesh listens: as asked for, as its settings say, or at the next free port.

Pure but for `is_free`, which looks at one address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mlxmesh_shared.errors import IllegalState

MAX_PORTS_TRIED = 100

IsFree = Callable[[str], bool]


@dataclass(frozen=True)
class ListenRequest:
    """An address that a service should listen on."""

    what: str
    """The server, for example "gateway"."""
    listen: str
    """host:port; port 0 takes a free one, and empty means that nothing listens."""
    may_move: bool = False
    """Whether another port will do: nobody asked for this one."""

    @property
    def is_fixed(self) -> bool:
        """Whether it must be this very port."""
        return bool(self.listen) and not self.may_move and port_of(self.listen) != 0


def choose(
    requests: Iterable[ListenRequest], is_free: IsFree
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """For each request the address to listen on, and what the owner should know.

    Raises: IllegalState naming every address that is asked for and cannot be had.
    """
    requests = tuple(requests)
    taken = [request for request in requests if request.is_fixed and not is_free(request.listen)]
    if taken:
        names = " and ".join(f"{request.listen} ({request.what})" for request in taken)
        raise IllegalState(
            f"cannot listen on {names}: taken, or not an address of this host; stop what uses it,"
            " or choose another (--grpc-port, --http-port, listen and http_listen in mlxmesh.toml)"
        )
    chosen: dict[str, str] = {}
    notes: list[str] = []
    for request in requests:
        chosen[request.what] = _next_free(request, is_free) if request.may_move else request.listen
        if chosen[request.what] != request.listen:
            port, instead = port_of(request.listen), port_of(chosen[request.what])
            notes.append(
                f"port {port} is taken, so the {request.what} uses {instead or 'a free one'}"
            )
    return chosen, tuple(notes)


def _next_free(request: ListenRequest, is_free: IsFree) -> str:
    first = port_of(request.listen)
    if first == 0 or not request.listen:
        return request.listen
    for port in range(first, min(first + MAX_PORTS_TRIED, 65536)):
        if is_free(with_port(request.listen, port)):
            return with_port(request.listen, port)
    return with_port(request.listen, 0)


def port_of(listen: str) -> int:
    """The port of host:port; 0 where there is none."""
    return int(listen.rpartition(":")[2] or 0)


def with_port(listen: str, port: int) -> str:
    """The same host with another port."""
    return f"{listen.rpartition(':')[0]}:{port}"
