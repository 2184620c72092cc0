"""Chooses the runtime for the next replica of a version. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlxmesh_model.catalogue.models import FailureRecord, Phase

# An engine needs more memory than its weights (KV cache, interpreter). A host with less than this
# beyond the weights is skipped; the runtime itself checks more exactly.
OVERHEAD_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine as its runtime reports it; the phase is never STOPPING."""

    engine_id: str
    phase: Phase
    failure: FailureRecord | None = None
    memory_bytes: int = 0
    running_sequences: int = 0
    waiting_sequences: int = 0
    longest_wait_ms: int = 0  # of the sequences in its queue
    idle_ms: int = 0  # without a sequence


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime; `engines` is None while it does not respond or is absent from the registry.

    A draining runtime gets no new replica and keeps its own until replacements are ready.
    """

    runtime_id: str
    memory_available_bytes: int = 0
    engines: Mapping[str, Engine] | None = None
    draining: bool = False
    memory_shortage_bytes: int = 0  # what its engines must free, so that the host does not swap

    @property
    def accepts_engines(self) -> bool:
        """Whether it responds and is not draining."""
        return self.engines is not None and not self.draining


@dataclass(frozen=True, slots=True)
class NoCapacity:
    """Why no runtime was chosen: the number of runtimes, the memory needed, the most free."""

    runtimes: int
    needed_bytes: int
    most_available_bytes: int


def place(
    runtimes: Iterable[Runtime],
    *,
    weights_bytes: int,
    replicas_on: Mapping[str, int],
    reserved_bytes: Mapping[str, int],
    rejected_by: frozenset[str] = frozenset(),
) -> Runtime | NoCapacity:
    """The runtime for one more replica: the one with the fewest replicas of this version (so that
    the loss of a host costs few of them), then the most free memory, then the first id.

    `reserved_bytes` was placed on a runtime and may not show in its free memory yet; `rejected_by`
    are the runtimes that rejected the replica in this pass.
    """
    reachable = [runtime for runtime in runtimes if runtime.accepts_engines]
    needed_bytes = weights_bytes + OVERHEAD_BYTES

    def free_bytes(runtime: Runtime) -> int:
        reserved = reserved_bytes.get(runtime.runtime_id, 0)
        return max(0, runtime.memory_available_bytes - reserved)

    fitting = [
        runtime
        for runtime in reachable
        if free_bytes(runtime) >= needed_bytes and runtime.runtime_id not in rejected_by
    ]
    if not fitting:
        most = max(map(free_bytes, reachable), default=0)
        return NoCapacity(len(reachable), needed_bytes, most)
    return min(
        fitting,
        key=lambda runtime: (
            replicas_on.get(runtime.runtime_id, 0),
            -free_bytes(runtime),
            runtime.runtime_id,
        ),
    )
