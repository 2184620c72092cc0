"""Which prefixes of prompts are cached, and which are evicted first. Pure: no MLX.

Tokens are cached in blocks. The key of a block is the number of the block before it and its own
tokens, so that a look-up takes one exact step per block of the prompt, whatever the cache's size.
The first block's key also has the namespace: whatever beside the tokens changes keys and values.
One insertion adds a segment: blocks that begin a prompt, or that follow a block of an earlier
segment.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

BLOCK_TOKENS = 32

Value = TypeVar("Value")
_Key = tuple[int, bytes]
"""(number of the previous block; its tokens). Of a first block: (0; namespace and tokens)."""


@dataclass(eq=False, slots=True)
class _Segment(Generic[Value]):
    value: Value
    keys: list[_Key]
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Block(Generic[Value]):
    number: int
    segment: _Segment[Value]


@dataclass(slots=True)
class _Path(Generic[Value]):
    """The cached prefix of a prompt: its segments, and how many blocks of each."""

    segments: list[tuple[_Segment[Value], int]]
    blocks: int = 0
    last_number: int = 0


@dataclass(frozen=True, slots=True)
class Piece(Generic[Value]):
    """The first `tokens` of one cached value."""

    value: Value
    tokens: int


class PrefixCache(Generic[Value]):
    """Holds at most `capacity_bytes`; evicts the least recently used segment first."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._blocks: dict[_Key, _Block[Value]] = {}
        # In order of last use. A look-up touches a segment before its predecessors, so no other
        # segment depends on the first one.
        self._segments: OrderedDict[_Segment[Value], None] = OrderedDict()
        self._last_number = 0
        self.nbytes = 0
        self.version = 0
        """Changes with the content."""

    def __len__(self) -> int:
        return len(self._segments)

    def find(self, tokens: Sequence[int], namespace: bytes = b"") -> list[Piece[Value]]:
        """The longest cached prefix of `tokens`, as pieces in order."""
        path = self._walk(_blocks(tokens, namespace))
        self._touch(path)
        return [Piece(segment.value, BLOCK_TOKENS * blocks) for segment, blocks in path.segments]

    def insert(
        self,
        tokens: Sequence[int],
        namespace: bytes = b"",
        *,
        token_bytes: int,
        extract: Callable[[int, int], Value],
    ) -> None:
        """Caches the missing whole blocks of these tokens, as many as fit.

        `extract(start, stop)` returns the value for these tokens.
        """
        blocks = _blocks(tokens, namespace)
        path = self._walk(blocks)
        self._touch(path)
        block_bytes = BLOCK_TOKENS * token_bytes
        path_bytes = sum(segment.nbytes for segment, _ in path.segments)
        max_blocks = (self._capacity_bytes - path_bytes) // block_bytes
        missing = blocks[path.blocks : path.blocks + max_blocks]
        if not missing:
            return
        self._evict(len(missing) * block_bytes)
        start = BLOCK_TOKENS * path.blocks
        value = extract(start, start + BLOCK_TOKENS * len(missing))
        self._add(path, _Segment(value, [], len(missing) * block_bytes), missing)

    def _walk(self, blocks: list[bytes]) -> _Path[Value]:
        path = _Path[Value]([])
        segment, first = None, 0
        for tokens in blocks:
            block = self._blocks.get((path.last_number, tokens))
            if block is None:
                break
            if block.segment is not segment:
                if segment is not None:
                    path.segments.append((segment, path.blocks - first))
                segment, first = block.segment, path.blocks
            path.blocks += 1
            path.last_number = block.number
        if segment is not None:
            path.segments.append((segment, path.blocks - first))
        return path

    def _touch(self, path: _Path[Value]) -> None:
        for segment, _ in reversed(path.segments):
            self._segments.move_to_end(segment)

    def _evict(self, nbytes: int) -> None:
        while self.nbytes + nbytes > self._capacity_bytes:
            segment, _ = self._segments.popitem(last=False)
            self.nbytes -= segment.nbytes
            self.version += 1
            for key in segment.keys:
                del self._blocks[key]

    def _add(self, path: _Path[Value], segment: _Segment[Value], missing: list[bytes]) -> None:
        previous = path.last_number
        for tokens in missing:
            self._last_number += 1
            segment.keys.append((previous, tokens))
            self._blocks[previous, tokens] = _Block(self._last_number, segment)
            previous = self._last_number
        self._segments[segment] = None
        self._touch(path)
        self.nbytes += segment.nbytes
        self.version += 1


def _blocks(tokens: Sequence[int], namespace: bytes) -> list[bytes]:
    """Every whole block as bytes: exact, and with a hash that an attacker cannot predict.

    Blocks have one length, so the namespace before the first one cannot be taken for tokens.
    """
    packed = array("I", tokens)
    block_bytes = BLOCK_TOKENS * packed.itemsize
    text = packed.tobytes()
    stop = len(text) // block_bytes * block_bytes
    blocks = [text[start : start + block_bytes] for start in range(0, stop, block_bytes)]
    return [namespace + blocks[0], *blocks[1:]] if blocks else []
