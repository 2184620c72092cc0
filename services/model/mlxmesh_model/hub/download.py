"""A download: what is wanted, its state, and which transitions are legal. Pure."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mlxmesh_model.catalogue.models import FailureRecord, Source
from mlxmesh_shared.errors import IllegalState


class State(StrEnum):
    """The state of a download; the values are stored."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    FAILED = "failed"
    COMPLETED = "completed"
    DELETING = "deleting"  # until its files are removed; nobody sees it any more


ACTIVE = frozenset({State.WAITING, State.RUNNING})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to download, and under which name to register it."""

    repo_id: str
    revision: str
    name: str
    file: str = ""
    dtype: str = ""

    @property
    def source(self) -> Source:
        """The source of the version, without its commit."""
        return Source(
            repo_id=self.repo_id, revision=self.revision, file=self.file, dtype=self.dtype
        )


@dataclass(frozen=True, slots=True)
class Download:
    """A download as it is stored; `failure` is that of the last attempt."""

    download_id: str
    wanted: Wanted
    created_at: datetime
    load: bool = False
    state: State = State.WAITING
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: float = 0.0
    file: str = ""
    ended_at: datetime | None = None
    failure: FailureRecord | None = None
    version: int = 0
    attempt: int = 0
    principal: str = ""

    def paused(self) -> "Download":
        """The download after PauseDownload. Raises: IllegalState."""
        if self.state is State.PAUSED:
            return self
        if self.state not in ACTIVE:
            raise self._illegal("pause")
        return replace(self, state=State.PAUSED, bytes_per_second=0.0, file="")

    def resumed(self) -> "Download":
        """The download after ResumeDownload. Raises: IllegalState."""
        if self.state in ACTIVE:
            return self
        if self.state is State.COMPLETED:
            raise self._illegal("resume")
        return replace(self, state=State.WAITING, failure=None)

    def started(self) -> "Download":
        """The download at the beginning of an attempt."""
        return replace(self, state=State.RUNNING, attempt=self.attempt + 1)

    def progressed(
        self, *, done_bytes: int, total_bytes: int, file: str, bytes_per_second: float
    ) -> "Download":
        """The download with more bytes on disk."""
        return replace(
            self,
            done_bytes=done_bytes,
            total_bytes=total_bytes,
            file=file,
            bytes_per_second=bytes_per_second,
            failure=None,
        )

    def postponed(self, failure: FailureRecord) -> "Download":
        """The download until its next attempt."""
        return replace(self._stopped(State.WAITING), failure=failure)

    def failed(self, failure: FailureRecord) -> "Download":
        """The download that needs somebody to resume it."""
        return replace(self._stopped(State.FAILED), failure=failure)

    def completed(self, version: int, now: datetime) -> "Download":
        """The download whose version is registered."""
        done = self._stopped(State.COMPLETED)
        return replace(
            done, version=version, ended_at=now, done_bytes=self.total_bytes, failure=None
        )

    def _stopped(self, state: State) -> "Download":
        return replace(self, state=state, bytes_per_second=0.0, file="")

    def _illegal(self, action: str) -> IllegalState:
        return IllegalState(f"cannot {action} {self.download_id}: it is {self.state.upper()}")
