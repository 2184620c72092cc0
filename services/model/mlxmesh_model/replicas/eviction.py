"""Which loaded versions give way when another one needs room, or the host is short. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mlxmesh_model.replicas.placement import UNLIMITED

UNSERVED_GRACE_S = 10.0
"""A version that has served nothing yet stays at least this long: its request is on its way."""
PATIENCE_S = 5.0
"""How long a version waits for an idle one to give way before a busy one has to."""
MIN_RESIDENCE_S = 10.0
"""How long a busy version stays at least, so that loading does not take longer than serving."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A version with engines on one runtime."""

    label: str
    memory_bytes: int
    """Of its engines on this runtime."""
    engines: int = 1
    """On this runtime."""
    idle_s: float = 0.0
    """How long it has not been used; 0 while it is."""
    busy: bool = False
    ready_s: float = 0.0
    """How long it has been ready."""
    served: bool = True
    """Whether it was used since it is ready."""
    starting: bool = False
    evictable: bool = True
    """Whether its policy allows it to be unloaded for others."""

    @property
    def idle(self) -> bool:
        """Whether it may give way at once."""
        expected = not self.served and self.idle_s < UNSERVED_GRACE_S
        return self.evictable and not (self.busy or self.starting or expected)

    @property
    def drainable(self) -> bool:
        """Whether it may give way to a version that has waited for long."""
        in_use = self.busy and not self.starting
        return self.evictable and in_use and self.ready_s >= MIN_RESIDENCE_S


@dataclass(frozen=True, slots=True)
class Space:
    """The room on one runtime; that of engines which are being stopped is freed soon."""

    runtime_id: str
    residents: Sequence[Resident]
    free_bytes: int
    freed_soon_bytes: int = 0
    free_engines: int = UNLIMITED
    freed_soon_engines: int = 0
    promised_bytes: int = 0
    """What versions that wait were promised in this pass; they give way in turn later."""
    promised_engines: int = 0
    rejected: bool = False
    """Whether the runtime itself said that there is no room, although there seems to be."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one more engine of a version needs."""

    label: str
    memory_bytes: int
    waited_s: float = 0.0
    urgent: bool = True
    """Whether busy versions have to give way in the end: none of its engines is ready."""


@dataclass(frozen=True, slots=True)
class MakeRoom:
    """The versions to unload, if any, and the runtime on which there is room then."""

    runtime_id: str
    victims: tuple[Resident, ...] = ()


@dataclass(frozen=True, slots=True)
class Later:
    """There is no room at present, but versions that are in use will become idle."""


@dataclass(frozen=True, slots=True)
class Never:
    """There is not enough room even without all versions that may be unloaded."""


def make_room(need: Need, spaces: Iterable[Space]) -> MakeRoom | Later | Never:
    """How to make room for one more engine: unload the least recently used versions that are idle,
    on the runtime where these were unused the longest; after a while, the busy version that has
    been ready the longest.
    """
    choices = [(space, _victims(need, space)) for space in spaces]
    possible = [(space, victims) for space, victims in choices if victims is not None]
    if possible:
        space, victims = min(possible, key=_cost)
        return MakeRoom(space.runtime_id, victims)
    return Later() if any(_may_fit(need, space) for space, _ in choices) else Never()


def relieve(space: Space, shortage_bytes: int) -> tuple[Resident, ...]:
    """The versions to unload on a host that is short of memory: idle ones by least recent use, and
    one busy one when none is idle.
    """
    missing_bytes = shortage_bytes - space.freed_soon_bytes
    victims: list[Resident] = []
    for resident in _idle(space):
        if missing_bytes <= 0:
            break
        victims.append(resident)
        missing_bytes -= resident.memory_bytes
    if missing_bytes > 0 and not victims and not space.freed_soon_engines:
        victims = _drainable(space)[:1]
    return tuple(victims)


def _cost(choice: tuple[Space, tuple[Resident, ...]]) -> tuple[bool, float, str]:
    """Lowest for no victims, then for idle ones, by the most recent use of any of them."""
    space, victims = choice
    most_recent = max((-victim.idle_s for victim in victims), default=float("-inf"))
    return any(victim.busy for victim in victims), most_recent, space.runtime_id


def _victims(need: Need, space: Space) -> tuple[Resident, ...] | None:
    """The versions to unload; empty when there is room, or is soon; None if it cannot be made."""
    if space.rejected and space.freed_soon_engines:
        return ()  # the runtime is asked again when they have stopped
    candidates = [resident for resident in _idle(space) if resident.label != need.label]
    if need.urgent and need.waited_s >= PATIENCE_S:
        candidates += [one for one in _drainable(space) if one.label != need.label]
    chosen: list[Resident] = []
    for candidate in candidates:
        if _fits(need, space, chosen):
            break
        chosen.append(candidate)
    if not _fits(need, space, chosen):
        return None
    for candidate in list(chosen):
        others = [one for one in chosen if one is not candidate]
        if _fits(need, space, others):
            chosen = others
    return tuple(chosen)


def _fits(need: Need, space: Space, without: Sequence[Resident]) -> bool:
    if space.rejected and not without:
        return False
    freed_bytes = space.freed_soon_bytes + sum(one.memory_bytes for one in without)
    freed_engines = space.freed_soon_engines + sum(one.engines for one in without)
    return (
        space.free_bytes + freed_bytes >= need.memory_bytes
        and space.free_engines + freed_engines >= 1
    )


def _may_fit(need: Need, space: Space) -> bool:
    others = [one for one in space.residents if one.evictable and one.label != need.label]
    later = replace(
        space,
        freed_soon_bytes=space.freed_soon_bytes + space.promised_bytes,
        freed_soon_engines=space.freed_soon_engines + space.promised_engines,
        rejected=space.rejected and not space.promised_engines,
    )
    return _fits(need, later, others)


def _idle(space: Space) -> list[Resident]:
    """Those that may give way at once, the least recently used first."""
    idle = (resident for resident in space.residents if resident.idle)
    return sorted(idle, key=lambda one: (-one.idle_s, one.label))


def _drainable(space: Space) -> list[Resident]:
    """Busy ones, the one that has been ready the longest first."""
    busy = (resident for resident in space.residents if resident.drainable)
    return sorted(busy, key=lambda one: (-one.ready_s, one.label))
