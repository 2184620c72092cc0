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
class Wish:
    """An address that a service should listen on."""

    what: str
    """Whose it is, as in "gateway"."""
    listen: str
    """host:port; port 0 takes a free one, and empty means that nothing listens."""
    may_move: bool = False
    """Whether another port will do: nobody asked for this one."""

    @property
    def is_fixed(self) -> bool:
        """Whether it must be this very port."""
        return bool(self.listen) and not self.may_move and port_of(self.listen) != 0


def choose(wishes: Iterable[Wish], is_free: IsFree) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """For each wish the address to listen on, and what the owner should know.

    Raises: IllegalState naming every address that is asked for and cannot be had.
    """
    wishes = tuple(wishes)
    taken = [wish for wish in wishes if wish.is_fixed and not is_free(wish.listen)]
    if taken:
        names = " and ".join(f"{wish.listen} ({wish.what})" for wish in taken)
        raise IllegalState(
            f"cannot listen on {names}: taken, or not an address of this host; stop what uses it,"
            " or choose another (--grpc-port, --http-port, listen and http_listen in mlxmesh.toml)"
        )
    chosen: dict[str, str] = {}
    notes: list[str] = []
    for wish in wishes:
        chosen[wish.what] = _nearest(wish, is_free) if wish.may_move else wish.listen
        if chosen[wish.what] != wish.listen:
            port, instead = port_of(wish.listen), port_of(chosen[wish.what])
            notes.append(f"port {port} is taken, so the {wish.what} uses {instead or 'a free one'}")
    return chosen, tuple(notes)


def _nearest(wish: Wish, is_free: IsFree) -> str:
    first = port_of(wish.listen)
    if first == 0 or not wish.listen:
        return wish.listen
    for port in range(first, min(first + MAX_PORTS_TRIED, 65536)):
        if is_free(with_port(wish.listen, port)):
            return with_port(wish.listen, port)
    return with_port(wish.listen, 0)


def port_of(listen: str) -> int:
    """The port of host:port; 0 where there is none."""
    return int(listen.rpartition(":")[2] or 0)


def with_port(listen: str, port: int) -> str:
    """The same host with another port."""
    return f"{listen.rpartition(':')[0]}:{port}"
