"""Which beginnings of prompts are kept, and which is given up first. Pure: no MLX.

Tokens are kept in blocks. A block is found by the block before it and its own tokens, so that a
look-up takes one exact step for each block of the prompt, however much is kept. What is kept at
one time is a segment: blocks that begin a prompt, or that follow a block of an earlier segment.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

BLOCK_TOKENS = 32

Kept = TypeVar("Kept")
_Key = tuple[int, bytes]
"""(number of the block before, or 0; the block's own tokens)"""


@dataclass(eq=False, slots=True)
class _Segment(Generic[Kept]):
    kept: Kept
    keys: list[_Key]
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Block(Generic[Kept]):
    number: int
    segment: _Segment[Kept]


@dataclass(slots=True)
class _Path(Generic[Kept]):
    """How far a prompt is known: the segments it leads through, and how many blocks of each."""

    segments: list[tuple[_Segment[Kept], int]]
    blocks: int = 0
    last_number: int = 0


@dataclass(frozen=True, slots=True)
class Piece(Generic[Kept]):
    """The first `tokens` of what was kept as one."""

    kept: Kept
    tokens: int


class PrefixCache(Generic[Kept]):
    """Holds at most `capacity_bytes`; the least recently used segment is the first to go."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._blocks: dict[_Key, _Block[Kept]] = {}
        # The first was used longest ago. Whoever uses a segment uses those before it right after,
        # so the first is always one that no other follows.
        self._segments: OrderedDict[_Segment[Kept], None] = OrderedDict()
        self._last_number = 0
        self.nbytes = 0
        self.version = 0
        """Changes with what is kept."""

    def __len__(self) -> int:
        return len(self._segments)

    def find(self, tokens: Sequence[int]) -> list[Piece[Kept]]:
        """The longest beginning of `tokens` that is kept, as pieces in order."""
        path = self._walk(_blocks(tokens))
        self._use(path)
        return [Piece(segment.kept, BLOCK_TOKENS * blocks) for segment, blocks in path.segments]

    def keep(
        self, tokens: Sequence[int], *, token_bytes: int, extract: Callable[[int, int], Kept]
    ) -> None:
        """Keeps what is missing of these tokens, in whole blocks, as far as it can fit.

        `extract(start, stop)` gives what there is to keep of these tokens.
        """
        blocks = _blocks(tokens)
        path = self._walk(blocks)
        self._use(path)
        block_bytes = BLOCK_TOKENS * token_bytes
        held_bytes = sum(segment.nbytes for segment, _ in path.segments)
        room = (self._capacity_bytes - held_bytes) // block_bytes
        missing = blocks[path.blocks : path.blocks + room]
        if not missing:
            return
        self._make_room(len(missing) * block_bytes)
        start = BLOCK_TOKENS * path.blocks
        kept = extract(start, start + BLOCK_TOKENS * len(missing))
        self._add(path, _Segment(kept, [], len(missing) * block_bytes), missing)

    def _walk(self, blocks: list[bytes]) -> _Path[Kept]:
        path = _Path[Kept]([])
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

    def _use(self, path: _Path[Kept]) -> None:
        for segment, _ in reversed(path.segments):
            self._segments.move_to_end(segment)

    def _make_room(self, nbytes: int) -> None:
        while self.nbytes + nbytes > self._capacity_bytes:
            segment, _ = self._segments.popitem(last=False)
            self.nbytes -= segment.nbytes
            self.version += 1
            for key in segment.keys:
                del self._blocks[key]

    def _add(self, path: _Path[Kept], segment: _Segment[Kept], missing: list[bytes]) -> None:
        before = path.last_number
        for tokens in missing:
            self._last_number += 1
            segment.keys.append((before, tokens))
            self._blocks[before, tokens] = _Block(self._last_number, segment)
            before = self._last_number
        self._segments[segment] = None
        self._use(path)
        self.nbytes += segment.nbytes
        self.version += 1


def _blocks(tokens: Sequence[int]) -> list[bytes]:
    """Every whole block, packed: as exact as the tokens, and with a hash that none can foresee."""
    packed = array("I", tokens)
    block_bytes = BLOCK_TOKENS * packed.itemsize
    text = packed.tobytes()
    stop = len(text) // block_bytes * block_bytes
    return [text[start : start + block_bytes] for start in range(0, stop, block_bytes)]
