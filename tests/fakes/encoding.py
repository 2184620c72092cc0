"""The Encode of the fake engine: vectors and scores that depend on the tokens alone."""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlxmesh.engine.v1.engine_pb2 import (
    ENCODING_SCORE,
    ENCODING_VECTOR,
    EncodeInput,
    EncodeRequest,
    EncodeResponse,
    Vector,
)
from mlxmesh_shared.errors import DeadlineExceeded, FeatureNotSupported, InvalidArgument, MeshError

_ENCODINGS = {"embedding": ENCODING_VECTOR, "rerank": ENCODING_SCORE}


def vector_of(token_ids: Sequence[int], dimensions: int) -> list[float]:
    """A vector of length 1."""
    raw = [1.0 + (sum(token_ids) * (place + 1)) % 7 for place in range(dimensions)]
    length = math.sqrt(sum(each * each for each in raw))
    return [each / length for each in raw]


def score_of(given: EncodeInput) -> float:
    """A logit: half of the difference between the second text's and the first one's lengths."""
    return (len(given.token_ids) - 2 * given.second_start) / 2


@dataclass
class FakeEncoding:
    """Answers Encode; everything is public for tests to look at or set."""

    kind: str = "embedding"
    dimensions: int = 4
    vocab_size: int = 500
    context_tokens: int = 1024
    requests: list[EncodeRequest] = field(default_factory=list[EncodeRequest])
    running: int = 0
    """Inputs in work."""
    refuse_next: deque[MeshError] = field(default_factory=deque[MeshError])
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, calls wait."""

    def __post_init__(self) -> None:
        self.may_answer.set()

    async def encode(self, request: EncodeRequest) -> EncodeResponse:
        """Raises: what the contract says."""
        self.requests.append(request)
        if self.refuse_next:
            raise self.refuse_next.popleft()
        self._check(request)
        self.running += len(request.inputs)
        timeout_s = request.timeout_ms / 1000 if request.HasField("timeout_ms") else None
        try:
            async with asyncio.timeout(timeout_s):
                await self.may_answer.wait()
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed") from None
        finally:
            self.running -= len(request.inputs)
        if request.encoding == ENCODING_SCORE:
            return EncodeResponse(scores=map(score_of, request.inputs))
        vectors = [
            Vector(values=vector_of(each.token_ids, self.dimensions)) for each in request.inputs
        ]
        return EncodeResponse(vectors=vectors)

    def _check(self, request: EncodeRequest) -> None:
        if _ENCODINGS.get(self.kind) != request.encoding:
            raise FeatureNotSupported(f"an engine of the kind {self.kind} does not compute it")
        for place, each in enumerate(request.inputs):
            name = f"inputs[{place}].token_ids"
            if len(each.token_ids) > self.context_tokens:
                raise InvalidArgument(f"{name} is too long", field=name)
            if max(each.token_ids) >= self.vocab_size:
                raise InvalidArgument(f"{name} is outside the vocabulary", field=name)
