"""Which runtime gets the next replica of a version."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlxmesh_model.catalogue.models import FailureRecord, Phase

# Weights are not all that an engine needs (key-value cache, the interpreter): a host with less than
# this beyond the weights is not asked. The runtime itself decides more exactly.
OVERHEAD_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine as its runtime reports it; the phase is never STOPPING."""

    engine_id: str
    phase: Phase
    failure: FailureRecord | None = None


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime; `engines` is None while it does not answer or is away from the registry.

    One that is draining gets no replica, and keeps those it has until others serve in their place.
    """

    runtime_id: str
    memory_available_bytes: int = 0
    engines: Mapping[str, Engine] | None = None
    draining: bool = False

    @property
    def open(self) -> bool:
        """Whether it can be asked to start an engine."""
        return self.engines is not None and not self.draining


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Why no runtime was chosen: how many there are, what is needed, and the most that is free."""

    runtimes: int
    needed_bytes: int
    most_available_bytes: int


def place(
    runtimes: Iterable[Runtime],
    *,
    weights_bytes: int,
    replicas_on: Mapping[str, int],
    promised_bytes: Mapping[str, int],
    refused_by: frozenset[str] = frozenset(),
) -> Runtime | NoRoom:
    """The runtime for one more replica: fewest replicas of this version (the loss of a host should
    cost few of them), then most free memory, then the first id.

    `promised_bytes` is what was placed on a runtime and may not be in its memory figure yet;
    `refused_by` are runtimes that said no just now.
    """
    reachable = [runtime for runtime in runtimes if runtime.open]
    needed_bytes = weights_bytes + OVERHEAD_BYTES

    def free_bytes(runtime: Runtime) -> int:
        promised = promised_bytes.get(runtime.runtime_id, 0)
        return max(0, runtime.memory_available_bytes - promised)

    fitting = [
        runtime
        for runtime in reachable
        if free_bytes(runtime) >= needed_bytes and runtime.runtime_id not in refused_by
    ]
    if not fitting:
        most = max(map(free_bytes, reachable), default=0)
        return NoRoom(len(reachable), needed_bytes, most)
    return min(
        fitting,
        key=lambda runtime: (
            replicas_on.get(runtime.runtime_id, 0),
            -free_bytes(runtime),
            runtime.runtime_id,
        ),
    )
