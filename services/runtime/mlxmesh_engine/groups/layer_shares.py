"""How many consecutive layers each rank gets, by its share of the model. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_shared.errors import InvalidArgument

PPM = 10**6
# Shares that differ by less are equal: they were rounded.
_ROUNDING_PPM = 100


@dataclass(frozen=True, slots=True)
class Layer:
    size_bytes: int
    kind: str
    """Of its cache. Each rank needs layers of all kinds."""


def shares_of_all(others: Sequence[int]) -> list[int]:
    """By rank; rank 0 has what the others leave. All are equal if one of the others is 0.

    Raises: InvalidArgument if the others leave nothing.
    """
    if 0 in others:
        return [PPM // (len(others) + 1)] * (len(others) + 1)
    if sum(others) >= PPM:
        raise InvalidArgument(
            "the shares of the ranks above 0 leave nothing for rank 0", field="group_share_ppm"
        )
    return [PPM - sum(others), *others]


def are_equal(shares: Sequence[int]) -> bool:
    return max(shares) - min(shares) <= _ROUNDING_PPM


def divide_layers(layers: Sequence[Layer], shares: Sequence[int]) -> list[int] | None:
    """The number of layers of each rank, by rank; rank 0 gets the last ones. None if it is
    impossible that each rank has layers of all kinds.

    Of all divisions, the one in which the rank that is fullest in relation to its share is least
    full. The same on every host.
    """
    ends = _first_ends(layers)
    sums = [0]
    for layer in layers:
        sums.append(sums[-1] + layer.size_bytes)
    # best[end]: how full the fullest of the ranks so far is when they have the layers before
    # `end`, and how many layers each of them has, in the order of the layers.
    best: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    for share in reversed(shares):
        before, best = best, {}
        for start, (fullest, counts) in before.items():
            for end in range(ends[start], len(layers) + 1):
                fill = max(fullest, (sums[end] - sums[start]) * PPM // share)
                if end not in best or fill < best[end][0]:
                    best[end] = fill, [*counts, end - start]
    found = best.get(len(layers))
    return None if found is None else found[1][::-1]


def _first_ends(layers: Sequence[Layer]) -> list[int]:
    """For each start, the first end before which there are layers of all kinds; behind the last
    layer if there is none.
    """
    kinds = {layer.kind for layer in layers}
    ends: list[int] = []
    for start in range(len(layers) + 1):
        missing, end = set(kinds), start
        while missing and end < len(layers):
            missing.discard(layers[end].kind)
            end += 1
        ends.append(len(layers) + 1 if missing else max(end, start + 1))
    return ends
