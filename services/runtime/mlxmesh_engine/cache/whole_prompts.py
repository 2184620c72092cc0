"""Which states of whole prompts are cached, and which are evicted first. Pure: no MLX.

A state serves the prompts that begin with exactly its tokens. It is taken where a sequence's
prefill and its output end, and where prompts part: at the second prompt with a common prefix, the
engine cuts its prefill after that prefix and takes a state, which serves the third one.

Source: Pan et al., "Marconi: Prefix Caching for the Era of Hybrid LLMs" (MLSys 2025), section 4.1.
"""

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mlxmesh_engine.cache.prefix_cache import BLOCK_TOKENS, PrefixCache

# A shorter prompt is prefilled in little more than a decode step.
MIN_TOKENS = BLOCK_TOKENS
# Of earlier prompts, to find where new ones part from them: about 10 MB.
_REMEMBERED_TOKENS = 2**20

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Value]):
    value: Value
    tokens: int
    nbytes: int


class WholePrompts(Generic[Value]):
    """Holds at most `capacity_bytes`; evicts the least recently used state first."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._entries: OrderedDict[bytes, _Entry[Value]] = OrderedDict()
        self._lengths: Counter[int] = Counter()
        self._prompts: PrefixCache[None] = PrefixCache(_REMEMBERED_TOKENS)
        self.nbytes = 0
        self.version = 0
        """Changes with the content."""

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, tokens: Sequence[int], namespace: bytes) -> tuple[int, Value] | None:
        """The state after the most of these tokens, from the first on, and after how many."""
        lengths = sorted(length for length in self._lengths if length <= len(tokens))
        found = [
            digest for digest in digests(tokens, namespace, lengths) if digest in self._entries
        ]
        if not found:
            return None
        self._entries.move_to_end(found[-1])
        entry = self._entries[found[-1]]
        return entry.tokens, entry.value

    def contains(self, tokens: Sequence[int], namespace: bytes) -> bool:
        return next(digests(tokens, namespace, [len(tokens)])) in self._entries

    def branch(self, tokens: Sequence[int], namespace: bytes) -> int:
        """How many tokens, in whole blocks, it has in common with an earlier prompt."""
        return sum(piece.tokens for piece in self._prompts.find(tokens, namespace))

    def remember(self, tokens: Sequence[int], namespace: bytes) -> None:
        """Remembers a prompt's tokens, for `branch`."""
        self._prompts.insert(tokens, namespace, token_bytes=1, extract=lambda _start, _stop: None)

    def insert(self, tokens: Sequence[int], namespace: bytes, value: Value, nbytes: int) -> None:
        """Caches the state after exactly these tokens, if it fits and is not cached yet."""
        digest = next(digests(tokens, namespace, [len(tokens)]))
        if digest in self._entries or nbytes > self.capacity_bytes:
            return
        while self.nbytes + nbytes > self.capacity_bytes:
            self._evict()
        self._entries[digest] = _Entry(value, len(tokens), nbytes)
        self._lengths[len(tokens)] += 1
        self.nbytes += nbytes
        self.version += 1

    def _evict(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self.nbytes -= entry.nbytes
        self.version += 1
        self._lengths[entry.tokens] -= 1
        if not self._lengths[entry.tokens]:
            del self._lengths[entry.tokens]


def digests(tokens: Sequence[int], namespace: bytes, lengths: Sequence[int]) -> Iterator[bytes]:
    """SHA-256 of the first so many tokens, for each of these lengths in ascending order."""
    packed = memoryview(array("I", tokens)).cast("B")
    size = array("I").itemsize
    digest = hashlib.sha256(len(namespace).to_bytes(8, "big") + namespace)
    start = 0
    for length in lengths:
        digest.update(packed[start * size : length * size])
        start = length
        yield digest.digest()
