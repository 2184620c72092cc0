"""What a client has received of a Generate stream: all that resuming it elsewhere needs. Pure."""

from array import array
from collections import defaultdict
from collections.abc import Callable

from mlxmesh.generation.v1.generation_pb2 import (
    Delta,
    Finished,
    GenerateRequest,
    GenerateResponse,
    ReceivedOutput,
    ResumeGenerationRequest,
    Started,
)

# Messages are stored raw, and parsed only when an instance is lost or this many are stored.
MAX_RAW_MESSAGES = 1000


def other_tokens(started: Started) -> int:
    """Tokens that the other steps of an ensemble generated before its answer began."""
    return sum(step.usage.completion_tokens for step in started.steps)


class _Output:
    """What was received of one output."""

    def __init__(self) -> None:
        self.token_ids = array("I")
        self._text_characters = 0
        self._reasoning_characters = 0
        self._tool_calls = 0
        self._arguments_characters = 0
        self.finished: Finished | None = None

    def add(self, delta: Delta) -> None:
        self.token_ids.extend(delta.token_ids)
        self._text_characters += len(delta.text)
        self._reasoning_characters += len(delta.reasoning_text)
        for piece in delta.tool_calls:
            if piece.index >= self._tool_calls:
                self._tool_calls, self._arguments_characters = piece.index + 1, 0
            self._arguments_characters += len(piece.arguments)

    def received(self, index: int) -> ReceivedOutput:
        return ReceivedOutput(
            index=index,
            token_ids=self.token_ids,
            text_characters=self._text_characters,
            reasoning_characters=self._reasoning_characters,
            tool_calls=self._tool_calls,
            arguments_characters=self._arguments_characters,
            finished=self.finished,
        )


class Recording:
    """The messages of one stream; short, undisturbed streams are never parsed."""

    def __init__(self, *, keeps_all: Callable[[], bool] = lambda: False) -> None:
        """keeps_all: whether another instance is to retain the messages; asked when it matters."""
        self.resumptions = 0
        """How many times the stream was resumed at another instance."""
        self._raw: list[bytes] = []
        self._keeps_all = keeps_all
        self._all: list[bytes] = []
        self._started: Started | None = None
        self._outputs: defaultdict[int, _Output] = defaultdict(_Output)
        self._prompt_logprobs = 0
        self._last_sequence = 0
        self._numbering = 0

    def __bool__(self) -> bool:
        """Whether there is any message."""
        return bool(self._raw) or self._last_sequence > 0

    def add(self, message: bytes) -> None:
        self._raw.append(message)
        if len(self._raw) > MAX_RAW_MESSAGES:
            self._read()

    @property
    def finished(self) -> bool:
        """Whether the last message is the end of the generation."""
        return bool(self._raw) and is_last(GenerateResponse.FromString(self._raw[-1]))

    @property
    def started(self) -> Started:
        """The first message; empty before it has arrived."""
        if self._started is None and self._raw:
            return GenerateResponse.FromString(self._raw[0]).started
        return self._started if self._started is not None else Started()

    @property
    def used_tokens(self) -> int:
        """The number of tokens of all outputs, and of an ensemble's other steps."""
        return self.tokens + (other_tokens(self._started) if self._started is not None else 0)

    @property
    def tokens(self) -> int:
        """The number of tokens of all outputs."""
        self._read()
        return sum(len(output.token_ids) for output in self._outputs.values())

    def resume_request(self, request: GenerateRequest) -> ResumeGenerationRequest:
        """The request to another instance, with everything fixed that Started reported."""
        self._read()
        resume = ResumeGenerationRequest(
            generation=request,
            outputs=[output.received(index) for index, output in sorted(self._outputs.items())],
            prompt_logprobs=self._prompt_logprobs,
            after_sequence=self._last_sequence,
            numbering=self._numbering,
            resumptions=self.resumptions,
            received=map(GenerateResponse.FromString, self._all),
        )
        if self._started is not None:
            resume.started.CopyFrom(self._started)
            resume.generation.model = f"{self._started.model}@{self._started.model_version}"
            resume.generation.request_id = self._started.request_id
            resume.generation.sampling.seed = self._started.seed
        return resume

    def _read(self) -> None:
        # The last one stays raw: it shows whether the stream has ended.
        raw, self._raw = self._raw, self._raw[-1:]
        keeps_all = self._keeps_all()
        for encoded in raw:
            message = GenerateResponse.FromString(encoded)
            if message.sequence <= self._last_sequence:
                continue
            if keeps_all:
                self._all.append(encoded)
            self._last_sequence, self._numbering = message.sequence, message.numbering
            if message.HasField("started"):
                self._started = message.started
            elif message.HasField("delta"):
                self._outputs[message.delta.index].add(message.delta)
            elif message.HasField("finished"):
                self._outputs[message.finished.index].finished = message.finished
            self._prompt_logprobs += len(message.prompt_logprobs.tokens)


def is_last(message: GenerateResponse) -> bool:
    """Whether the message is the end of the whole generation."""
    return message.HasField("finished") and message.finished.HasField("total_usage")
