"""Joins the events of a generation to its outputs. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mlxmesh.generation.v1.generation_pb2 import (
    CompleteResponse,
    Finished,
    GenerateResponse,
    Output,
    PrefillProgress,
    Started,
    TokenLogprob,
    ToolCall,
)


@dataclass(frozen=True)
class GenerationEvent:
    """One message of a generation: new output, or its start, progress or end.

    Texts and lists are empty in events without output, so that they can simply be joined. With
    several outputs, `index` says which one the event belongs to.
    """

    sequence: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    started: Started | None = None
    progress: PrefillProgress | None = None
    finished: Finished | None = None
    """The end of the output `index`; that of the last one has `total_usage`."""
    index: int = 0
    """The output, from 0 to n - 1."""
    reasoning_text: str = ""
    """New reasoning, which comes before the text."""
    tool_calls: tuple[ToolCall, ...] = ()
    """New pieces of tool calls; `join_tool_calls` makes whole ones of them."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of token_ids, if requested."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the next tokens of the prompt, if requested."""
    numbering: int = 0
    """Who gave it its `sequence`; `attach` takes both. 0 from instances of earlier versions."""

    @property
    def is_last(self) -> bool:
        """Whether this is the last event of the stream."""
        return self.finished is not None and self.finished.HasField("total_usage")


def to_event(response: GenerateResponse) -> GenerationEvent:
    """Converts a wire message."""
    kind = response.WhichOneof("event")
    delta = response.delta
    return GenerationEvent(
        sequence=response.sequence,
        text=delta.text,
        token_ids=tuple(delta.token_ids),
        started=response.started if kind == "started" else None,
        progress=response.prefill_progress if kind == "prefill_progress" else None,
        finished=response.finished if kind == "finished" else None,
        index=response.finished.index if kind == "finished" else delta.index,
        reasoning_text=delta.reasoning_text,
        tool_calls=tuple(delta.tool_calls),
        logprobs=tuple(delta.logprobs),
        prompt_logprobs=tuple(response.prompt_logprobs.tokens),
        numbering=response.numbering,
    )


def join_tool_calls(pieces: Iterable[ToolCall]) -> list[ToolCall]:
    """The whole calls of one output, from the pieces in its events, in order.

    The arguments of a call are JSON, but a model that is not constrained may write anything:

        for call in join_tool_calls(piece for event in events for piece in event.tool_calls):
            print(call.name, json.loads(call.arguments or "{}"))
    """
    calls: dict[int, ToolCall] = {}
    arguments: dict[int, list[str]] = {}
    for piece in pieces:
        call = calls.setdefault(piece.index, ToolCall(index=piece.index))
        call.id, call.name = call.id or piece.id, call.name or piece.name
        arguments.setdefault(piece.index, []).append(piece.arguments)
    for index, call in calls.items():
        call.arguments = "".join(arguments[index])
    return list(calls.values())


@dataclass
class OutputSoFar:
    """What has arrived of one output."""

    index: int
    texts: list[str] = field(default_factory=list[str])
    reasoning_texts: list[str] = field(default_factory=list[str])
    token_ids: list[int] = field(default_factory=list[int])
    pieces: list[ToolCall] = field(default_factory=list[ToolCall])
    """Those of tool calls."""
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    finished: Finished | None = None
    has_events: bool = False
    """Whether any event of it has arrived."""

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.texts)

    @property
    def reasoning_text(self) -> str:
        """The reasoning so far."""
        return "".join(self.reasoning_texts)

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls so far; the last one may be incomplete."""
        return join_tool_calls(self.pieces)

    def add(self, event: GenerationEvent) -> None:
        """Adds an event of this output."""
        self.has_events = True
        self.texts.append(event.text)
        self.reasoning_texts.append(event.reasoning_text)
        self.token_ids += event.token_ids
        self.pieces += event.tool_calls
        self.logprobs += event.logprobs
        self.finished = event.finished or self.finished


class Outputs:
    """The outputs of one generation, joined from its events in order.

    outputs = Outputs()
    async for event in mesh.generate("qwen", messages=messages, n=3):
        outputs.add(event)
    print(outputs[2].text, outputs[2].tool_calls)
    """

    def __init__(self) -> None:
        self.started: Started | None = None
        self.prompt_logprobs: list[TokenLogprob] = []
        self._outputs: dict[int, OutputSoFar] = {}

    def __getitem__(self, index: int) -> OutputSoFar:
        """An output, from 0 to n - 1; empty before its first event."""
        return self._outputs.setdefault(index, OutputSoFar(index))

    def __len__(self) -> int:
        """How many outputs have events so far."""
        return len(self._outputs)

    def add(self, event: GenerationEvent) -> None:
        """Adds the next event."""
        self.started = event.started or self.started
        self.prompt_logprobs += event.prompt_logprobs
        if event.started is None and event.progress is None and not event.prompt_logprobs:
            self[event.index].add(event)

    def as_response(self) -> CompleteResponse:
        """What `complete` would have returned, as far as it has arrived."""
        first = self[0]
        others = [self._outputs[index] for index in sorted(self._outputs) if index]
        return CompleteResponse(
            started=self.started,
            text=first.text,
            token_ids=first.token_ids,
            finished=first.finished,
            reasoning_text=first.reasoning_text,
            tool_calls=first.tool_calls,
            logprobs=first.logprobs,
            other_outputs=map(_output, others),
            prompt_logprobs=self.prompt_logprobs,
        )


def _output(output: OutputSoFar) -> Output:
    return Output(
        index=output.index,
        text=output.text,
        token_ids=output.token_ids,
        finished=output.finished,
        reasoning_text=output.reasoning_text,
        tool_calls=output.tool_calls,
        logprobs=output.logprobs,
    )
