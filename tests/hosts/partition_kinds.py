"""The ways in which the network between the services of a mesh is cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.hosts.partition_mesh import ENGINES, GENERATIONS, PartitionMesh

Way = tuple[str, str]
"""Packets from the first host to the second."""


@dataclass(frozen=True)
class Route:
    """What a call goes over."""

    generations: Sequence[str] = GENERATIONS
    engines: Sequence[str] = ENGINES


@dataclass(frozen=True)
class Partition:
    """Ways that are cut, and the calls that need them."""

    name: str
    ways: Sequence[Way]
    path: Route = Route()
    cut_s: float = 8.0
    flaps: bool = False
    during: Callable[[PartitionMesh], None] = lambda _: None
    """Called while the network is cut."""


def both(one: Sequence[str], other: Sequence[str]) -> list[Way]:
    """Each host of one side with each of the other, in both directions."""
    pairs = list(itertools.product(one, other))
    return [*pairs, *((b, a) for a, b in pairs)]


def kill_engine(mesh: PartitionMesh) -> None:
    """Its runtime starts another one, at another port."""
    mesh.kill_engine("engine1")


EVERYBODY = ("gateway", "model", *GENERATIONS, *ENGINES)
GENERATION1 = Route(generations=("generation1",))
ENGINE1 = Route(engines=("engine1",))
LINK = Route(("generation1",), ("engine1",))
PARTITIONS = (
    Partition("gateway | generation1", both(["gateway"], ["generation1"]), GENERATION1),
    Partition("gateway > generation1", [("gateway", "generation1")], GENERATION1),
    Partition("generation1 > gateway", [("generation1", "gateway")], GENERATION1),
    Partition("gateway | both generations", both(["gateway"], GENERATIONS)),
    Partition("generation1 | engine1", both(["generation1"], ["engine1"]), LINK),
    Partition("generation1 > engine1", [("generation1", "engine1")], LINK),
    Partition("engine1 > generation1", [("engine1", "generation1")], LINK),
    Partition("both generations | both engines", both(GENERATIONS, ENGINES)),
    Partition("everybody | engine1", both(("consul", *EVERYBODY[:-2]), ["engine1"]), ENGINE1),
    Partition(
        "everybody | generation1",
        both(("consul", "gateway", "model", *ENGINES), ["generation1"]),
        GENERATION1,
    ),
    Partition(
        "everybody | Consul, engine1 dies",
        both(EVERYBODY, ["consul"]),
        ENGINE1,
        during=kill_engine,
    ),
    Partition(
        "gateway | generation1, flapping",
        both(["gateway"], ["generation1"]),
        GENERATION1,
        flaps=True,
    ),
    Partition(
        "generation1 | engine1, flapping", both(["generation1"], ["engine1"]), LINK, flaps=True
    ),
    Partition("gateway | both generations, flapping", both(["gateway"], GENERATIONS), flaps=True),
)
