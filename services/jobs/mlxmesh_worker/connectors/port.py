"""The port of connectors: what a worker needs of a back end, and what a connector needs of it."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, kw_only=True)
class Target:
    """A back end that a connector talks to."""

    name: str
    """Its name in the registry or the settings."""
    address: str
    """host:port, or a URL. It may end with #key=env:NAME or #key=file:/PATH, which names where the
    key is that the back end wants."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A file that was stored, as in OutputFile."""

    file_id: str
    name: str
    media_type: str
    size_bytes: int


class Reports(Protocol):
    """What a connector tells its worker while it runs. Raises: MeshError, such as
    OutputTooLarge.
    """

    @property
    def leaves_work(self) -> bool:
        """Whether a run that is cancelled leaves its work at the back end to a later attempt: this
        one was fenced, or its worker stops.
        """
        ...

    async def progress(
        self,
        *,
        fraction: float = 0.0,
        done: int = 0,
        total: int = 0,
        unit: str = "",
        text: str = "",
    ) -> None:
        """How far the work has come, as in JobProgress; may be called often.

        With nothing new it says that the back end still has the work: a job without any news for
        long is stopped as stuck.
        """
        ...

    async def remember(self, state: Mapping[str, Any]) -> None:
        """Stores what a later attempt needs to find this work at the back end again; returns once
        it is durable, so before the back end is asked to begin.
        """
        ...

    async def store(self, name: str, media_type: str, content: AsyncIterable[bytes]) -> Made:
        """Stores a file that the back end made."""
        ...

    def read(self, name: str) -> AsyncIterator[bytes]:
        """The bytes of an input file, by its name in input_file_ids."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """Work for a back end."""

    job_id: str
    """The key by which a back end recognizes a repetition."""
    attempt: int
    """The fencing token: grows with each attempt."""
    operation: str
    arguments: Mapping[str, Any]
    inputs: Sequence[str]
    """The names of input files."""
    state: Mapping[str, Any]
    """What an earlier attempt remembered; empty for the first."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a back end returned."""

    result: Mapping[str, Any]
    files: Sequence[Made] = ()


class Connector(Protocol):
    """Speaks one protocol with one back end; found by the entry point of its name, which follows
    the rule WHAT_PROTOCOL, such as comfyui_websocket.

    Errors: InvalidArgument and OutputTooLarge for work that would fail again, ServiceUnavailable
    for a back end that cannot be reached, is full or refuses its key, BackEndFailed and other
    MeshErrors for what another attempt may not meet.
    """

    name: ClassVar[str]
    operations: ClassVar[Sequence[str]]
    """The default one first."""

    async def probe(self) -> None:
        """Checks the health of the back end. Raises: ServiceUnavailable."""
        ...

    def check(self, operation: str, arguments: Mapping[str, Any]) -> None:
        """Raises: InvalidArgument that names what is wrong with arguments."""
        ...

    async def run(self, task: Task, reports: Reports) -> Outcome:
        """Does the work. When it is cancelled, it stops the work at the back end too, unless
        reports.leaves_work, before it raises CancelledError, within a second or two.
        """
        ...

    async def close(self) -> None:
        """Closes its connections."""
        ...


class ConnectorType(Protocol):
    """What an entry point of the group `mlxmesh.connectors` names."""

    name: ClassVar[str]
    operations: ClassVar[Sequence[str]]

    def __call__(self, target: Target) -> Connector:
        """A connector to a back end."""
        ...
