"""What the ranks of a group tell each other beside operations. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_engine.groups.operations import Operation
from mlxmesh_shared.errors import MeshError


@dataclass(frozen=True, slots=True)
class Joined:
    """The first message of a rank to rank 0."""

    rank: int
    size: int
    """Of the group, as this rank was told."""
    address: str
    ring_address: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A rank ends, and the group with it."""

    error: MeshError


@dataclass(frozen=True, slots=True)
class Leaving:
    """A rank was asked to stop."""


FromFollower = Joined | Failed | Leaving


@dataclass(frozen=True, slots=True)
class Started:
    """All ranks have joined. Addresses by rank."""

    addresses: Sequence[str]
    ring_addresses: Sequence[str]


@dataclass(frozen=True, slots=True)
class Stopped:
    """The group ends in order."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The start has ended."""


FromLeader = Started | Serving | Sequence[Operation] | Stopped
