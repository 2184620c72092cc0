"""One engine as plain data: what to run, its current record, its failure and its health."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from mlxmesh_runtime.lifecycle import EngineState
from mlxmesh_shared.errors import DiskFull, FetchFailed, ModelFilesDamaged, ModelRefused


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Settings of an engine; None means the engine's default."""

    max_running: int | None = None
    max_waiting: int | None = None
    prefill_tokens_per_step: int | None = None
    context_tokens: int | None = None
    dtype: str | None = None
    kv_cache_bytes: int | None = None
    kv_cache_type: str | None = None
    prefix_cache_bytes: int | None = None
    prefix_disk_bytes: int | None = None
    forward: str | None = None
    kind: str | None = None
    max_adapters: int | None = None
    adapter_bytes: int | None = None
    speculative: str | None = None
    draft_model_dir: str | None = None
    group_size: int | None = None
    group_split: str | None = None

    @property
    def draft_dir(self) -> Path | None:
        """The directory of the draft model that the engine loads too."""
        return Path(self.draft_model_dir or "") if self.speculative == "draft" else None


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a version, as the model service asks for them."""

    digest: str
    weights_bytes: int


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What to run: one replica of one model version, from an absolute directory."""

    engine_id: str
    model: str
    model_version: int
    model_dir: Path
    options: EngineOptions = field(default_factory=EngineOptions)
    files: ModelFiles | None = None
    """What must be in model_dir; None for whatever is there."""
    draft_files: ModelFiles | None = None

    @property
    def weights_bytes(self) -> int:
        """The sizes of the weights that the model service told of."""
        files = (self.files, self.draft_files)
        return sum(each.weights_bytes for each in files if each is not None)

    @property
    def group_size(self) -> int:
        """How many ranks compute it together."""
        return self.options.group_size or 1

    def same_model(self, other: EngineSpec) -> bool:
        """Whether both serve the same version of the same model from the same place."""
        mine = (self.model, self.model_version, self.model_dir)
        return mine == (other.model, other.model_version, other.model_dir)


class FailureReason(StrEnum):
    """Why an engine failed, as the `reason` of the contract's Failure."""

    CRASHED = "ENGINE_CRASHED"
    STALLED = "ENGINE_STALLED"
    START_FAILED = "ENGINE_START_FAILED"
    REFUSED = ModelRefused.reason
    FETCH_FAILED = FetchFailed.reason
    FILES_DAMAGED = ModelFilesDamaged.reason
    DISK_FULL = DiskFull.reason


_PERMANENT = (FailureReason.REFUSED, FailureReason.FILES_DAMAGED, FailureReason.DISK_FULL)


@dataclass(frozen=True)
class EngineFailure:
    """Why an engine failed, in one sentence for a person."""

    reason: FailureReason
    message: str

    @property
    def permanent(self) -> bool:
        """Whether another start of the same model would fail as well, until somebody helps."""
        return self.reason in _PERMANENT


@dataclass(frozen=True)
class RankRecord:
    """A rank above 0 of an engine's group."""

    rank: int
    runtime_id: str
    pid: int  # on the host of that runtime
    round_trip_ms: float = 0.0  # from the runtime of rank 0, when the rank was placed


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """A snapshot of an engine; without a process, `address` is empty and `pid` is 0."""

    spec: EngineSpec
    state: EngineState
    address: str = ""
    pid: int = 0
    restarts: int = 0
    last_failure: EngineFailure | None = None
    started_at: datetime | None = None
    ranks: tuple[RankRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EngineLoad:
    """The load of an engine, as of its last heartbeat."""

    running: int = 0
    waiting: int = 0
    longest_wait_ms: int = 0  # of the sequences in its queue
    idle_ms: int = 0  # without a sequence of any kind
    background: int = 0  # sequences that the others do not count


NO_LOAD = EngineLoad()


@dataclass(frozen=True, kw_only=True)
class EngineHealth:
    """What a running engine answers to a heartbeat."""

    device: str
    time_since_progress_s: float  # since its last step that was due
    load: EngineLoad = EngineLoad(running=1)

    @property
    def busy(self) -> bool:
        """Whether it has sequences."""
        return self.load.running + self.load.waiting + self.load.background > 0
