"""What an ensemble needs of the generations that answer for it."""

from typing import Protocol

from mlxmesh_generation.domain.request import Event, GenerationRequest


class Member(Protocol):
    """One generation; it begins with start()."""

    @property
    def model(self) -> str: ...
    @property
    def version(self) -> int: ...

    def start(self) -> None:
        """Raises: every error of an engine that refuses it."""
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

    def close(self) -> None:
        """Ends it at once, and drops its events; a no-op once it has ended and was read."""
        ...


class Members(Protocol):
    """Prepares generations. They fail at once when no engine can run them, unless committed."""

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
