"""What a client has received of a Generate stream: all that resuming it elsewhere needs. Pure."""

from array import array
from collections.abc import Callable

from mlxmesh.generation.v1.generation_pb2 import (
    GenerateRequest,
    GenerateResponse,
    ReceivedOutput,
    ResumeGenerationRequest,
    Started,
)

# Messages are stored raw, and parsed only when an instance is lost or this many are stored.
MAX_RAW_MESSAGES = 1000


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
        self._token_ids = array("I")
        self._text_characters = 0
        self._last_sequence = 0

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
        return bool(self._raw) and GenerateResponse.FromString(self._raw[-1]).HasField("finished")

    @property
    def request_id(self) -> str:
        """The generation's id; empty before the first message."""
        if self._started is None and self._raw:
            return GenerateResponse.FromString(self._raw[0]).started.request_id
        return self._started.request_id if self._started is not None else ""

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        self._read()
        return len(self._token_ids)

    def resume_request(self, request: GenerateRequest) -> ResumeGenerationRequest:
        """The request to another instance, with everything fixed that Started reported."""
        self._read()
        resume = ResumeGenerationRequest(
            generation=request,
            outputs=[
                ReceivedOutput(token_ids=self._token_ids, text_characters=self._text_characters)
            ],
            after_sequence=self._last_sequence,
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
            self._last_sequence = message.sequence
            if message.HasField("started"):
                self._started = message.started
            self._token_ids.extend(message.delta.token_ids)
            self._text_characters += len(message.delta.text)
