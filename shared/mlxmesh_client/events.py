"""What a stream of a generation yields."""

from dataclasses import dataclass

from mlxmesh.generation.v1.generation_pb2 import (
    Finished,
    GenerateResponse,
    PrefillProgress,
    Started,
)


@dataclass(frozen=True)
class GenerationEvent:
    """One message of a generation: new text and tokens, or how it started, goes or ended.

    `text` and `token_ids` are empty in events that carry no output, so that texts simply join.
    """

    sequence: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    started: Started | None = None
    progress: PrefillProgress | None = None
    finished: Finished | None = None


def to_event(response: GenerateResponse) -> GenerationEvent:
    """The event that a wire message carries."""
    kind = response.WhichOneof("event")
    return GenerationEvent(
        sequence=response.sequence,
        text=response.delta.text,
        token_ids=tuple(response.delta.token_ids),
        started=response.started if kind == "started" else None,
        progress=response.prefill_progress if kind == "prefill_progress" else None,
        finished=response.finished if kind == "finished" else None,
    )
