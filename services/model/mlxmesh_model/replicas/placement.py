"""Chooses the runtime for the next replica of a version. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlxmesh_model.catalogue.models import FailureRecord, Phase

# An engine needs more memory than its weights (KV cache, interpreter). A host with less than this
# beyond the weights is skipped; the runtime itself checks more exactly.
OVERHEAD_BYTES = 256 * 1024 * 1024
UNLIMITED = 2**31
"""A number of engines that no runtime has."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """How far a runtime is that fetches the files of a model; the total is 0 until it is known."""

    done_bytes: int
    total_bytes: int


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
    background_sequences: int = 0  # which the counts above leave out
    fetch: Fetch | None = None
    """Of its files, while that runs."""
    ranks: Mapping[int, str] = field(default_factory=dict[int, str])
    """The runtimes of the other ranks of its group, by rank."""
    round_trips_us: Mapping[int, int] = field(default_factory=dict[int, int])
    """From rank 0's runtime to those; 0 if unknown."""

    @property
    def busy(self) -> bool:
        """Whether it has a sequence of any kind."""
        return self.running_sequences + self.waiting_sequences + self.background_sequences > 0


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
    memory_limit_bytes: int = 0  # what all of its engines together may use
    host: str = ""  # at which the mesh reaches it

    @property
    def accepts_engines(self) -> bool:
        """Whether it responds and is not draining."""
        return self.engines is not None and not self.draining


@dataclass(frozen=True, slots=True)
class NoCapacity:
    """Why no runtime was chosen: the number of runtimes, the memory needed, the most free, and
    whether each of them has as many engines as it may have.
    """

    runtimes: int
    needed_bytes: int
    most_available_bytes: int
    all_full: bool = False


@dataclass(slots=True)
class Reserved:
    """What was promised on each runtime and may not show in what it reports yet."""

    bytes_on: Counter[str] = field(default_factory=Counter[str])
    engines_on: Counter[str] = field(default_factory=Counter[str])

    def add(self, runtime_id: str, needed_bytes: int) -> None:
        """Promises memory for one engine."""
        self.bytes_on[runtime_id] += needed_bytes
        self.engines_on[runtime_id] += 1


def free_bytes(runtime: Runtime, reserved: Reserved) -> int:
    """The memory that is free and not promised."""
    return max(0, runtime.memory_available_bytes - reserved.bytes_on[runtime.runtime_id])


def free_engines(runtime: Runtime, reserved: Reserved, max_engines: int) -> int:
    """How many more engines it may have; `max_engines` 0 is no limit."""
    if not max_engines:
        return UNLIMITED
    present = len(runtime.engines or ()) + reserved.engines_on[runtime.runtime_id]
    return max(0, max_engines - present)


def place(
    runtimes: Iterable[Runtime],
    *,
    weights_bytes: int,
    replicas_on: Mapping[str, int],
    reserved: Reserved,
    rejected_by: frozenset[str] = frozenset(),
    max_engines: int = 0,
) -> Runtime | NoCapacity:
    """The runtime for one more replica: the one with the fewest replicas of this version (so that
    the loss of a host costs few of them), then the most free memory, then the first id.

    `rejected_by` are the runtimes that rejected the replica in this pass; `max_engines` of a
    runtime, 0 for no limit.
    """
    reachable = [runtime for runtime in runtimes if runtime.accepts_engines]
    needed_bytes = weights_bytes + OVERHEAD_BYTES

    def free(runtime: Runtime) -> int:
        return free_bytes(runtime, reserved)

    unfilled = [one for one in reachable if free_engines(one, reserved, max_engines)]
    fitting = [
        runtime
        for runtime in unfilled
        if free(runtime) >= needed_bytes and runtime.runtime_id not in rejected_by
    ]
    if not fitting:
        most = max(map(free, reachable), default=0)
        return NoCapacity(len(reachable), needed_bytes, most, bool(reachable) and not unfilled)
    return min(
        fitting,
        key=lambda runtime: (
            replicas_on.get(runtime.runtime_id, 0),
            -free(runtime),
            runtime.runtime_id,
        ),
    )
