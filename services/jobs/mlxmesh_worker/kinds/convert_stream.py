"""What an attempt has received of a generation's stream, and what of a repetition is new.

A repeated attempt, another instance, or a replayed stream divides the same output differently, so
what is known is counted in tokens and characters of each output, and not in messages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mlxmesh.generation.v1.generation_pb2 import (
    CompleteResponse,
    Delta,
    Finished,
    GenerateResponse,
    GetGenerationResponse,
    Output,
    PromptLogprobs,
    ReceivedOutput,
    Started,
    ToolCall,
)
from mlxmesh.job.v1.worker_pb2 import StreamPosition

MAX_DELTA_TOKENS = 512


@dataclass
class _Amounts:
    """How much there is of one output."""

    tokens: int = 0
    text: int = 0
    reasoning: int = 0
    tool_calls: int = 0
    arguments: int = 0
    """Of the last tool call."""
    finished: Finished | None = None


@dataclass
class _Seen:
    """How far one replay of an output is."""

    tokens: int = 0
    text: int = 0
    reasoning: int = 0
    arguments: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))


class Received:
    """What of a stream is known, over all its replays."""

    def __init__(
        self,
        outputs: int = 1,
        position: StreamPosition | None = None,
        started: Started | None = None,
    ) -> None:
        """outputs: how many the generation has."""
        self.started = started
        self.prompt_logprobs = 0
        self.expected = outputs
        self.outputs: defaultdict[int, _Amounts] = defaultdict(_Amounts)
        if position is not None:
            self.prompt_logprobs = position.prompt_logprobs
            for output, tokens in zip(position.outputs, position.tokens, strict=True):
                self.outputs[output.index] = _amounts(output, tokens)

    @property
    def tokens(self) -> int:
        """Of all outputs."""
        return sum(output.tokens for output in self.outputs.values())

    @property
    def ended(self) -> int:
        """How many outputs have ended."""
        return sum(output.finished is not None for output in self.outputs.values())

    def position(self) -> StreamPosition:
        """For a later attempt."""
        known = sorted(self.outputs.items())
        return StreamPosition(
            outputs=[_received(index, output) for index, output in known],
            tokens=[output.tokens for _, output in known],
            prompt_logprobs=self.prompt_logprobs,
        )


class Replay:
    """Reads one stream from its beginning, and passes on what is new."""

    def __init__(self, received: Received) -> None:
        self._received = received
        self._seen: defaultdict[int, _Seen] = defaultdict(_Seen)
        self._prompt_logprobs = 0
        self._held: Finished | None = None
        self.last: Finished | None = None
        """The end of the whole generation."""

    def new(self, message: GenerateResponse) -> GenerateResponse | None:
        """The new part of a message; None if there is none."""
        if message.HasField("delta"):
            if self._is_all_new(message.delta):
                return message
            delta = self._delta(message.delta)
            return GenerateResponse(delta=delta) if delta.ByteSize() else None
        if message.HasField("finished"):
            return self._finished(message.finished)
        if message.HasField("prompt_logprobs"):
            return self._prompt(message.prompt_logprobs)
        if message.HasField("started") and self._received.started is None:
            self._received.started = message.started
            return GenerateResponse(started=message.started)
        return None

    def _is_all_new(self, delta: Delta) -> bool:
        """Counts a delta of which nothing is known: by far the most are, and need no copy."""
        known, seen = self._received.outputs[delta.index], self._seen[delta.index]
        if delta.tool_calls or (known.tokens, known.text, known.reasoning) != (
            seen.tokens,
            seen.text,
            seen.reasoning,
        ):
            return False
        known.tokens = seen.tokens = seen.tokens + len(delta.token_ids)
        known.text = seen.text = seen.text + len(delta.text)
        known.reasoning = seen.reasoning = seen.reasoning + len(delta.reasoning_text)
        return True

    def _delta(self, delta: Delta) -> Delta:
        known, seen = self._received.outputs[delta.index], self._seen[delta.index]
        skip = max(0, known.tokens - seen.tokens)
        new = Delta(
            token_ids=delta.token_ids[skip:],
            logprobs=delta.logprobs[skip:],
            text=delta.text[max(0, known.text - seen.text) :],
            reasoning_text=delta.reasoning_text[max(0, known.reasoning - seen.reasoning) :],
            tool_calls=self._calls(delta, known, seen),
        )
        if new.ByteSize():
            new.index = delta.index
        seen.tokens += len(delta.token_ids)
        seen.text += len(delta.text)
        seen.reasoning += len(delta.reasoning_text)
        known.tokens = max(known.tokens, seen.tokens)
        known.text = max(known.text, seen.text)
        known.reasoning = max(known.reasoning, seen.reasoning)
        return new

    def _calls(self, delta: Delta, known: _Amounts, seen: _Seen) -> Iterator[ToolCall]:
        for piece in delta.tool_calls:
            begins = piece.index >= known.tool_calls
            if begins:
                known.tool_calls, known.arguments = piece.index + 1, 0
            before = seen.arguments[piece.index]
            seen.arguments[piece.index] = before + len(piece.arguments)
            if begins:
                yield piece
            elif piece.index == known.tool_calls - 1:
                arguments = piece.arguments[max(0, known.arguments - before) :]
                if arguments:
                    yield ToolCall(index=piece.index, arguments=arguments)
            if piece.index == known.tool_calls - 1:
                known.arguments = max(known.arguments, seen.arguments[piece.index])

    def _prompt(self, message: PromptLogprobs) -> GenerateResponse | None:
        skip = max(0, self._received.prompt_logprobs - self._prompt_logprobs)
        self._prompt_logprobs += len(message.tokens)
        self._received.prompt_logprobs = max(self._received.prompt_logprobs, self._prompt_logprobs)
        tokens = message.tokens[skip:]
        return GenerateResponse(prompt_logprobs=PromptLogprobs(tokens=tokens)) if tokens else None

    def _finished(self, finished: Finished) -> GenerateResponse | None:
        """Outputs of a repetition may end in another order: the last one to be passed on waits for
        the total, which must be the end of the stream.
        """
        known = self._received.outputs[finished.index]
        if finished.HasField("total_usage"):
            self.last = finished
            if known.finished is not None and self._held is None:
                return None
            if self._held is not None:
                finished = _with_total(self._held, finished)
                known = self._received.outputs[finished.index]
        elif known.finished is not None:
            return None
        elif self._received.ended + 1 == self._received.expected:
            self._held = finished
            return None
        known.finished = finished
        return GenerateResponse(finished=finished)


class Merged:
    """Messages that wait to be sent: those of one output are merged."""

    def __init__(self) -> None:
        self._messages: list[GenerateResponse] = []
        self._deltas: dict[int, Delta] = {}
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: GenerateResponse) -> None:
        """Takes a message over."""
        if message.HasField("delta"):
            self._add_delta(message)
            return
        if message.HasField("finished"):
            self._deltas.pop(message.finished.index, None)
        self.tokens += len(message.prompt_logprobs.tokens)
        self._messages.append(message)

    def _add_delta(self, message: GenerateResponse) -> None:
        delta = message.delta
        self.tokens += len(delta.token_ids)
        into = self._deltas.get(delta.index)
        if into is None or len(into.token_ids) >= MAX_DELTA_TOKENS:
            self._deltas[delta.index] = delta
            self._messages.append(message)
        else:
            join_delta(into, delta)

    def take(self) -> list[GenerateResponse]:
        """All messages, in order."""
        messages, self._messages = self._messages, []
        self._deltas.clear()
        self.tokens = 0
        return messages


def number(messages: Iterable[GenerateResponse], first: int) -> None:
    """Gives messages their numbers within the job's stream."""
    for sequence, message in enumerate(messages, first):
        message.sequence = sequence


def new_whole() -> CompleteResponse:
    """An empty response."""
    return CompleteResponse()


def join_delta(into: Delta | Output | CompleteResponse, delta: Delta) -> None:
    """Appends what is new of one output."""
    into.text += delta.text
    into.reasoning_text += delta.reasoning_text
    into.token_ids.extend(delta.token_ids)
    into.logprobs.extend(delta.logprobs)
    for piece in delta.tool_calls:
        if into.tool_calls and into.tool_calls[-1].index == piece.index:
            into.tool_calls[-1].arguments += piece.arguments
        else:
            into.tool_calls.append(piece)


def add_to_whole(whole: CompleteResponse, message: GenerateResponse) -> None:
    """Adds a message of a stream to its whole response; few and large ones are added faster."""
    if message.HasField("started"):
        whole.started.CopyFrom(message.started)
    elif message.HasField("prompt_logprobs"):
        whole.prompt_logprobs.extend(message.prompt_logprobs.tokens)
    elif message.HasField("delta"):
        join_delta(_output(whole, message.delta.index), message.delta)
    elif message.HasField("finished"):
        _output(whole, message.finished.index).finished.CopyFrom(message.finished)
        if message.finished.HasField("total_usage"):
            whole.finished.CopyFrom(_with_total(whole.finished, message.finished))


def snapshot_messages(snapshot: GetGenerationResponse) -> Iterator[GenerateResponse]:
    """The stream that a generation has had so far, divided otherwise."""
    if snapshot.HasField("started"):
        yield GenerateResponse(started=snapshot.started)
    if snapshot.prompt_logprobs:
        yield GenerateResponse(prompt_logprobs=PromptLogprobs(tokens=snapshot.prompt_logprobs))
    outputs = [*snapshot.other_outputs, snapshot]
    for output in outputs:
        yield GenerateResponse(
            delta=Delta(
                index=_index(output),
                text=output.text,
                token_ids=output.token_ids,
                reasoning_text=output.reasoning_text,
                tool_calls=output.tool_calls,
                logprobs=output.logprobs,
            )
        )
    for output in outputs:  # the first output comes last: it has the total
        if output.HasField("finished"):
            yield GenerateResponse(finished=output.finished)


def _index(output: Output | GetGenerationResponse) -> int:
    return output.index if isinstance(output, Output) else 0


def _output(whole: CompleteResponse, index: int) -> Output | CompleteResponse:
    if index == 0:
        return whole
    while len(whole.other_outputs) < index:
        whole.other_outputs.add(index=len(whole.other_outputs) + 1)
    return whole.other_outputs[index - 1]


def _with_total(finished: Finished, last: Finished) -> Finished:
    """An output's end, with what only the last message of the stream has."""
    joined = Finished()
    joined.CopyFrom(finished)
    joined.total_usage.CopyFrom(last.total_usage)
    joined.cost, joined.device_ms = last.cost, last.device_ms
    del joined.steps[:]
    joined.steps.extend(last.steps)
    return joined


def _amounts(output: ReceivedOutput, tokens: int) -> _Amounts:
    return _Amounts(
        tokens=tokens,
        text=output.text_characters,
        reasoning=output.reasoning_characters,
        tool_calls=output.tool_calls,
        arguments=output.arguments_characters,
        finished=output.finished if output.HasField("finished") else None,
    )


def _received(index: int, output: _Amounts) -> ReceivedOutput:
    return ReceivedOutput(
        index=index,
        text_characters=output.text,
        reasoning_characters=output.reasoning,
        tool_calls=output.tool_calls,
        arguments_characters=output.arguments,
        finished=output.finished,
    )
