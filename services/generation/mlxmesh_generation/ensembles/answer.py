"""A whole answer, put together from its events. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from mlxmesh_generation.domain.request import CallPiece, Delta, Event, Finished


@dataclass(frozen=True)
class Call:
    """A tool call."""

    name: str
    arguments: str
    """JSON, if the model wrote it correctly."""


@dataclass(frozen=True)
class Answer:
    """One output of a model that has ended, without its reasoning."""

    events: Sequence[Event]
    """From Started to Finished."""
    finished: Finished
    text: str = ""
    calls: tuple[Call, ...] = ()
    logprobs: tuple[float, ...] = ()
    """One for each token, if they were requested."""

    @property
    def mean_logprob(self) -> float | None:
        """None without tokens, or where one has no usable probability."""
        return mean(self.logprobs)


def answer_of(events: Sequence[Event]) -> Answer:
    """The answer of a stream's events, of which the last one is Finished."""
    finished = events[-1]
    assert isinstance(finished, Finished)
    deltas = [event for event in events if isinstance(event, Delta)]
    scores = [token.logprob for delta in deltas for token in delta.logprobs]
    return Answer(
        events,
        finished,
        "".join(delta.text for delta in deltas),
        _calls([piece for delta in deltas for piece in delta.calls]),
        tuple(score for score in scores if score is not None),
    )


def mean(logprobs: Sequence[float]) -> float | None:
    """None without any, or if one is not a number."""
    if not logprobs:
        return None
    average = sum(logprobs) / len(logprobs)
    return None if isnan(average) else average


def _calls(pieces: Sequence[CallPiece]) -> tuple[Call, ...]:
    names: dict[int, str] = {}
    arguments: dict[int, list[str]] = {}
    for piece in pieces:
        names[piece.index] = names.get(piece.index) or piece.name
        arguments.setdefault(piece.index, []).append(piece.arguments)
    return tuple(Call(names[index], "".join(arguments[index])) for index in sorted(names))
