"""Which engines have likely read the beginning of a prompt before. Pure, and only a guess.

What an engine keeps is its own affair: a wrong guess costs reading, never a wrong answer.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence as Seq
from hashlib import blake2b
from itertools import pairwise

BLOCK_TOKENS = 32

# About 20 MB. 2 million tokens, more than a replica on one host keeps.
MOST_BLOCKS = 65_536

Prefixes = list[int]
"""A prompt's beginnings as numbers, one for each whole block: each stands for all up to there."""


class PrefixAffinity:
    """Remembers the latest prompts of each engine; what was longest unused is forgotten first."""

    def __init__(self, most_blocks: int = MOST_BLOCKS) -> None:
        self._most_blocks = most_blocks
        self._engines: OrderedDict[int, set[str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._engines)

    def warm_tokens(self, prefixes: Prefixes) -> dict[str, int]:
        """How many of the prompt's first tokens each engine has read; none for the others."""
        warm: dict[str, int] = {}
        left: set[str] | None = None
        for blocks, prefix in enumerate(prefixes, start=1):
            here = self._engines.get(prefix, set[str]())
            left = here if left is None else left & here
            if not left:
                break
            warm.update(dict.fromkeys(left, blocks * BLOCK_TOKENS))
        return warm

    def note(self, prefixes: Prefixes, engine_id: str) -> None:
        """An engine was given this prompt."""
        # Backwards, so that a beginning is not forgotten before what follows it.
        for prefix in reversed(prefixes):
            self._engines.setdefault(prefix, set()).add(engine_id)
            self._engines.move_to_end(prefix)
        while len(self._engines) > self._most_blocks:
            self._engines.popitem(last=False)

    def forget(self, engine_id: str) -> None:
        """An engine is gone, and all it had read."""
        for prefix, engines in list(self._engines.items()):
            engines.discard(engine_id)
            if not engines:
                del self._engines[prefix]


def prefixes(tokens: Seq[int]) -> Prefixes:
    """The same numbers in every process."""
    packed = array("I", tokens)
    text = memoryview(packed).cast("B")
    edges = range(0, len(text) + 1, BLOCK_TOKENS * packed.itemsize)
    found: Prefixes = []
    before = b""
    for start, stop in pairwise(edges):
        digest = blake2b(text[start:stop], key=before, digest_size=8).digest()
        found.append(int.from_bytes(digest))
        before = digest
    return found
