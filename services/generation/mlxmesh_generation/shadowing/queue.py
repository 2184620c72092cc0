"""Sampled requests that wait for room, in bounded memory. Pure."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mlxmesh_generation.domain.adapter import Adapter
from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.request import Chat, GenerationRequest, PromptTokens
from mlxmesh_generation.domain.routing import Shadow
from mlxmesh_generation.shadowing.pair import Answer

MAX_WAITING = 1024
_ITEM_BYTES = 2048
_TURN_BYTES = 512
_TOKEN_BYTES = 4


@dataclass(frozen=True)
class Sampled:
    """A request to repeat, and what its primary answered."""

    shadow: Shadow
    request: GenerationRequest
    version: ModelVersion
    """Of the primary."""
    seed: int
    answer: Answer
    text_of: Callable[[list[int]], str]
    """How the primary's tokens read."""
    expires_s: float
    """When it has waited too long, by the clock of who takes it."""
    adapter: Adapter | None = None
    """Of the primary."""

    @property
    def size_bytes(self) -> int:
        """The approximate memory of the request and the answer."""
        source = self.request.input
        size = _ITEM_BYTES + 2 * self.request.message_bytes
        if isinstance(source, Chat):
            size += _TURN_BYTES * len(source.turns)
        if isinstance(source, PromptTokens):
            size += _TOKEN_BYTES * len(source.token_ids)
        return size + _TOKEN_BYTES * len(self.answer.token_ids)


class SampleQueue:
    """Requests in order of arrival; what does not fit is refused."""

    def __init__(self, max_bytes: int, max_waiting: int = MAX_WAITING) -> None:
        """max_bytes: of those that wait and those that were taken and not released."""
        self._max_bytes = max_bytes
        self._max_waiting = max_waiting
        self._waiting: deque[Sampled] = deque()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, sampled: Sampled) -> bool:
        """False when it does not fit."""
        size_bytes = sampled.size_bytes
        full = len(self._waiting) >= self._max_waiting
        if full or self.held_bytes + size_bytes > self._max_bytes:
            return False
        self.held_bytes += size_bytes
        self._waiting.append(sampled)
        return True

    def take(self, accepts: Callable[[Sampled], bool]) -> Sampled | None:
        """The first that is accepted; release() it later."""
        for place, sampled in enumerate(self._waiting):
            if accepts(sampled):
                del self._waiting[place]
                return sampled
        return None

    def put_back(self, sampled: Sampled) -> None:
        """It was taken and had to make way; it is the next one."""
        self._waiting.appendleft(sampled)

    def take_expired(self, now_s: float) -> list[Sampled]:
        """Those that have waited too long; they are released."""
        expired: list[Sampled] = []
        # All wait equally long, so the first one expires first, or nearly so.
        while self._waiting and self._waiting[0].expires_s <= now_s:
            expired.append(self._waiting.popleft())
            self.release(expired[-1])
        return expired

    def discard(self, unwanted: Callable[[Sampled], bool]) -> None:
        """Removes those that are no longer wanted."""
        kept = deque[Sampled]()
        for sampled in self._waiting:
            if unwanted(sampled):
                self.release(sampled)
            else:
                kept.append(sampled)
        self._waiting = kept

    def release(self, sampled: Sampled) -> None:
        """Its memory is free again."""
        self.held_bytes -= sampled.size_bytes
