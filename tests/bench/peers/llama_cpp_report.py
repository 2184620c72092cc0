"""llama.cpp and the mesh side by side: who is compared with whom, targets, memory traffic."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.memory import traffic_row
from tests.bench.peers.contestants import Contestant
from tests.bench.peers.report import Rows, rows
from tests.bench.results import Result, Row, median_of

MESH, PEER = "mlxmesh", "llama.cpp"
FOUR_BIT, BF16 = "four-bit", "bf16"
"""The two models that the mesh serves, by the names that it has for them."""
BESIDE = {"Q4_1": FOUR_BIT, "Q4_0": FOUR_BIT, "BF16": BF16}
"""llama.cpp's types of the file, and which of ours each is compared with."""
WANTED = {1: 0.5, 32: 1.0}
"""Tokens/s of the mesh over llama.cpp's in 4 bit, by number of streams."""


@dataclass(frozen=True)
class Side:
    """A server under measurement."""

    contestant: Contestant
    beside: str
    """Which of ours it is compared with."""
    weights_bytes: int
    """What it reads for each step."""
    pids: tuple[int, ...] = ()
    """The processes that a stream of its passes through."""
    cpu_ms: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    """CPU time of these for each new token, prefill included, by number of streams."""


def compared(sides: Sequence[Side]) -> Rows:
    """Every side's figures, each beside that of ours which has the same weights."""
    measured = [(side.beside, side.contestant.measured()) for side in sides]
    found: Rows = []
    for name in (FOUR_BIT, BF16):
        here = [each for beside, each in measured if beside == name]
        found += rows(here, next(each for each in here if each.name == MESH))
    return found


def verdicts(found: Rows) -> list[Result]:
    """The mesh against each type of llama.cpp's in 4 bit."""
    return [
        Result(f"tokens/s at {n}, 4 bit, over llama.cpp {server.variant}", at.mesh_speed, WANTED[n])
        for server, by_streams in found
        if server.name == PEER and BESIDE[server.variant] == FOUR_BIT
        for n, at in by_streams.items()
        if n in WANTED
    ]


def cpu_rows(sides: Sequence[Side], streams: Sequence[int]) -> list[Row]:
    """CPU time of a new token: on a busy machine it says more than tokens/s."""
    return [
        {
            "server": side.contestant.name,
            "variant": side.contestant.variant,
            **{f"at {n}": statistics.median(side.cpu_ms.get(n) or [math.nan]) for n in streams},
        }
        for side in sides
    ]


def traffic(sides: Sequence[Side], thread_bytes_per_s: float) -> list[Row]:
    """What each side reads of memory at one stream; none where that was not measured."""
    return [
        traffic_row(
            {"server": side.contestant.name, "variant": side.contestant.variant},
            side.weights_bytes,
            median_of(samples, lambda sample: sample.tokens_per_second),
            thread_bytes_per_s,
        )
        for side in sides
        if (samples := side.contestant.samples.get(1))
    ]
