"""What an ensemble needs of the generations that answer for it."""

from typing import Protocol

from mlxmesh_generation.domain.request import Event, GenerationRequest
from mlxmesh_shared.errors import MeshError


class Member(Protocol):
    """One generation; it begins with start()."""

    @property
    def version(self) -> int: ...

    async def start(self) -> None:
        """Waits until its model is loaded, or it is cancelled, and asks an engine.

        Raises: why the model will not be loaded; every error of an engine that refuses it.
        """
        ...

    async def next(self) -> Event:
        """The next event; a Finished with a total is the last.

        Raises: the error of a failed generation, after every event before it.
        """
        ...

    async def wait_ended(self) -> None:
        """Returns once no event can follow those that next() has not returned."""
        ...

    def commit(self) -> None:
        """It is the one that answers: it waits for engines like any other generation."""
        ...

    def cancel(self) -> None:
        """Ends it with FinishReason.CANCELLED."""
        ...

    def close(self, error: MeshError | None = None) -> None:
        """Ends it at once, and drops its events; a no-op once it has ended and was read.

        error: by default that it was cancelled.
        """
        ...

    def report(self, *, chosen: bool) -> None:
        """Records how it ended; the chosen one's outcome has the caller's request_id."""
        ...


class Members(Protocol):
    """Prepares generations. If their model is loaded but no engine has room, they fail at once,
    unless committed.
    """

    async def prepare(self, request: GenerationRequest, timeout_s: float | None) -> Member:
        """Raises: every error of the request or of the mesh before an engine is asked."""
        ...

    async def prepare_score(
        self, request: GenerationRequest, answer: str, timeout_s: float | None
    ) -> tuple[Member, int]:
        """A generation of one token after an answer to the request, whose prompt has
        log-probabilities; and how many tokens at the end of the prompt are the answer's.

        Raises: as prepare().
        """
        ...
