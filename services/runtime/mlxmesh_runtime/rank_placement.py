"""Which runtimes run the ranks of a group, and how many of its layers each rank gets. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mlxmesh_runtime.memory_guard import ENGINE_OVERHEAD_BYTES

PPM = 10**6
# Round trips of one class: up to twice the fastest one, or up to a millisecond more. Load and
# measurement change a round trip by as much, so within a class the memory decides.
_CLASS_FACTOR = 2.0
_CLASS_MS = 1.0
# Up to this ratio, ranks get equal shares if these fit.
_EQUAL_RATIO = 1.25
# Of an equal part: with room for less, a runtime is asked last.
_LEAST_PART = 0.25


@dataclass(frozen=True)
class Candidate:
    """A runtime that could run a rank."""

    runtime_id: str
    available_bytes: int
    round_trip_ms: float = 0.0
    """From the runtime of rank 0; infinite if it was not measured in time."""
    problem: str = ""
    """Why it cannot be asked; empty if it can."""


@dataclass(frozen=True)
class Proposal:
    """Who should run the next rank."""

    candidate: Candidate
    share_ppm: int
    """Of the layers; 0 for parts of equal size."""


class Placement:
    """The ranks above 0 of one group, one after another."""

    def __init__(
        self,
        candidates: Iterable[Candidate],
        *,
        own_id: str,
        size: int,
        needed_bytes: int,
        by_memory: bool,
    ) -> None:
        """own_id: the runtime of rank 0, which has started. needed_bytes: of a rank with an equal
        part of the model. by_memory: whether ranks with more memory get more layers.
        """
        self._own_id = own_id
        self._to_place = size - 1
        self._by_memory = by_memory
        self._left_ppm = PPM
        self._places = Counter({own_id: 1})
        self._candidates = {each.runtime_id: each for each in candidates}
        self.refusals: dict[str, str] = {}
        """Why runtimes are not asked again."""
        self._part_bytes = max(0, needed_bytes - ENGINE_OVERHEAD_BYTES)
        least_bytes = round(_LEAST_PART * self._part_bytes) if by_memory else self._part_bytes
        self._least_bytes = ENGINE_OVERHEAD_BYTES + least_bytes
        if own := self._candidates.get(own_id):
            # What it has left already lacks what rank 0 is going to need.
            total_bytes = own.available_bytes + needed_bytes
            self._candidates[own_id] = replace(own, available_bytes=total_bytes)
        self._available_bytes = {
            each.runtime_id: each.available_bytes
            for each in self._candidates.values()
            if not each.problem
        }
        for each in [*self._candidates.values()]:
            if each.problem:
                self.refuse(each, each.problem)

    def propose(self) -> Proposal | None:
        """For the next rank; None if nobody is left."""
        best = next(iter(self._ordered(self._places)), None)
        return None if best is None else Proposal(best, self._share_ppm(best))

    def accept(self, proposal: Proposal) -> None:
        """The next rank runs there."""
        self._to_place -= 1
        self._left_ppm -= proposal.share_ppm
        self._places[proposal.candidate.runtime_id] += 1

    def refuse(self, candidate: Candidate, why: str) -> None:
        """It is not asked again."""
        self.refusals[candidate.runtime_id] = why
        self._candidates.pop(candidate.runtime_id, None)

    def _ordered(self, places: Counter[str]) -> list[Candidate]:
        return ordered(self._candidates.values(), places, least_bytes=self._least_bytes)

    def _share_ppm(self, candidate: Candidate) -> int:
        """In proportion to the rooms of rank 0, of the candidate, and of whom would follow."""
        if not self._by_memory:
            return 0
        places = Counter(self._places)
        places[candidate.runtime_id] += 1
        chosen = [self._own_id, candidate.runtime_id]
        while len(chosen) <= self._to_place:
            chosen.append(self._ordered(places)[0].runtime_id)
            places[chosen[-1]] += 1
        if self._own_id not in self._available_bytes:
            return self._left_ppm // len(chosen)
        rooms = [
            self._available_bytes[each] // places[each] - ENGINE_OVERHEAD_BYTES for each in chosen
        ]
        return second_share_ppm(self._left_ppm, rooms, part_bytes=self._part_bytes)


def second_share_ppm(total_ppm: int, rooms: Sequence[int], *, part_bytes: int = 0) -> int:
    """What the second of these gets of a total: in proportion to its bytes, or an equal part where
    all have about the same, and at least part_bytes.
    """
    some = [max(1, room) for room in rooms]
    if min(some) >= part_bytes and max(some) <= _EQUAL_RATIO * min(some):
        return total_ppm // len(some)
    return max(1, total_ppm * some[1] // sum(some))


def ordered(
    candidates: Iterable[Candidate], places: Counter[str], *, least_bytes: int = 0
) -> list[Candidate]:
    """Those with room first; of these the ones with the fewest ranks of the group, then the ones
    with the fastest links, then the ones with the most memory for each rank.

    available_bytes of the candidates: with nothing subtracted for ranks that are placed there.
    """
    present = [*candidates]
    links = link_classes(present)

    def key(each: Candidate) -> tuple[bool, int, int, int, str]:
        ranks = places[each.runtime_id]
        room = each.available_bytes // (ranks + 1)
        return room < least_bytes, ranks, links[each.runtime_id], -room, each.runtime_id

    return sorted(present, key=key)


def link_classes(candidates: Iterable[Candidate]) -> dict[str, int]:
    """Of each, how fast its link is; 0 is the fastest class. Links of one class count as equal.

    The runtime of rank 0 has no link: a class that begins with it has the limit of its fastest one.
    """
    classes: dict[str, int] = {}
    number, fastest_ms, limit_ms = -1, 0.0, -1.0
    for each in sorted(candidates, key=lambda each: each.round_trip_ms):
        new = each.round_trip_ms > limit_ms
        number += new
        if new or not fastest_ms:
            fastest_ms = each.round_trip_ms
            limit_ms = max(_CLASS_FACTOR * fastest_ms, fastest_ms + _CLASS_MS)
        classes[each.runtime_id] = number
    return classes
