"""Chooses the engine of a sequence, by load and by cached prefixes. Pure.

The cached prefixes are an estimate: a wrong one costs a prefill, never a wrong answer.
"""

from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from types import MappingProxyType
from zlib import crc32

from mlxmesh_shared.errors import NoReplica, QueueFull

BLOCK_TOKENS = 32

# About 20 MB, for 2 million tokens: more than a replica on one host caches.
MAX_BLOCKS = 65_536

Prefixes = list[int]
"""Hashes of a prompt's prefixes, one for each whole block; before them that of its adapter, which
counts as a block: an engine that has it needs not load it.
"""


class PrefixAffinity:
    """Remembers the latest prompts of each engine; evicts the least recently used first."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._engines: OrderedDict[int, set[str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._engines)

    def warm_tokens(self, prefixes: Prefixes) -> dict[str, int]:
        """The length of the prefix that each engine likely has; engines without one are omitted."""
        warm: dict[str, int] = {}
        left: Set[str] = frozenset()
        for blocks, prefix in enumerate(prefixes):
            here = self._engines.get(prefix, frozenset[str]())
            if not blocks:
                left = here
            elif not left <= here:
                # Each engine is recorded once, where its prefix ends: not at each of its blocks.
                warm.update(dict.fromkeys(left - here, blocks * BLOCK_TOKENS))
                left = left & here
            if not left:
                return warm
        warm.update(dict.fromkeys(left, len(prefixes) * BLOCK_TOKENS))
        return warm

    def note(self, prefixes: Prefixes, engine_id: str) -> None:
        """Records that an engine received this prompt."""
        # Backwards, so that a prefix is evicted after its continuations.
        for prefix in reversed(prefixes):
            self._engines.setdefault(prefix, set()).add(engine_id)
            self._engines.move_to_end(prefix)
        while len(self._engines) > self._max_blocks:
            self._engines.popitem(last=False)

    def forget(self, engine_ids: Iterable[str]) -> None:
        """Removes engines that are gone, all in one pass over what is remembered."""
        gone = frozenset(engine_ids)
        for prefix, engines in list(self._engines.items()):
            if engines.isdisjoint(gone):
                continue
            engines -= gone
            if not engines:
                del self._engines[prefix]


def prefixes(tokens: Sequence[int], adapter_digest: str = "") -> Prefixes:
    """The prefix hashes of a prompt, equal in every process.

    Those of different adapters differ, because cached keys and values depend on the adapter.
    """
    packed = array("I", tokens)
    text = memoryview(packed).cast("B")
    edges = range(0, len(text) + 1, BLOCK_TOKENS * packed.itemsize)
    found: Prefixes = []
    before = b""
    if adapter_digest:
        before = blake2b(adapter_digest.encode(), digest_size=8).digest()
        found.append(int.from_bytes(before))
    for start, stop in pairwise(edges):
        digest = blake2b(text[start:stop], key=before, digest_size=8).digest()
        found.append(int.from_bytes(digest))
        before = digest
    return found


@dataclass(frozen=True)
class EngineLoad:
    """An engine's load as it last reported it; 0 in a limit means unknown."""

    running: int = 0
    waiting: int = 0
    max_running: int = 0
    max_waiting: int = 0
    kv_capacity_bytes: int = 0
    kv_reserved_bytes: int = 0
    background: int = 0
    """Background sequences, which the others do not count."""
    adapters: frozenset[str] = frozenset()
    """The digests of those in its slots."""

    @property
    def capacity(self) -> int | None:
        return self.max_running + self.max_waiting or None

    @property
    def has_memory(self) -> bool:
        """Whether the engine may promise more key-value memory to waiting sequences."""
        if not self.kv_capacity_bytes or not self.max_running:
            return True
        max_bytes = self.kv_capacity_bytes * (1 + self.max_waiting / self.max_running)
        return self.kv_reserved_bytes < max_bytes


# An engine restarts, or a short answer ends, in about a second.
RETRY_DELAY_S = 1.0
# Beside one foreground sequence, background ones get about a twentieth of an engine's time.
FOREGROUND_WEIGHT = 20
"""As how much work of background sequences one other counts."""

# Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2018).
MAX_OF_MEAN_LOAD = 1.25
# So few sequences are never an overload, whatever the mean.
ALWAYS_ALLOWED = 2


@dataclass(frozen=True)
class Replica:
    """One engine as seen from here.

    `outstanding` counts the sequences that run or wait on it, `capacity` how many may (None while
    the engine has not reported). Without `has_memory`, all its key-value memory is promised. An
    `ejected` one failed too often recently.
    """

    engine_id: str
    connected: bool
    outstanding: int
    capacity: int | None = None
    has_memory: bool = True
    ejected: bool = False

    @property
    def full(self) -> bool:
        has_place = self.capacity is None or self.outstanding < self.capacity
        return not (has_place and self.has_memory)


def pick(
    replicas: Iterable[Replica],
    *,
    avoid: Collection[str] = (),
    warm_tokens: Mapping[str, int] = MappingProxyType({}),
    spread_by: int = 0,
    session_id: str = "",
) -> str:
    """The sound replica that has the longest part of the prompt warm and is not overloaded.

    A request of a session goes to the replica that its session_id ranks first of those that are not
    overloaded: the same one as before, whatever it has warm. Without an overload to avoid or a warm
    replica, the replica with the least outstanding work; of equals, the same one for the same
    `spread_by`, the first by id when it is 0. Sound are those that are connected and not ejected;
    when all that are connected are ejected, they count as sound: the last one is never ejected.

    Raises: NoReplica when none is connected, QueueFull when all that are sound have a full queue.
    """
    connected = [r for r in replicas if r.connected and r.engine_id not in avoid]
    candidates = [r for r in connected if not r.ejected] or connected
    if not candidates:
        raise NoReplica(
            "no replica of this model is ready just now; try again shortly",
            retry_delay_s=RETRY_DELAY_S,
        )
    free = [replica for replica in candidates if not replica.full]
    if not free:
        raise QueueFull(
            f"the queues of all {len(candidates)} replicas are full; try again later",
            retry_delay_s=RETRY_DELAY_S,
        )
    most = most_outstanding(candidates)
    fitting = [replica for replica in free if replica.outstanding < most]
    warm = [replica for replica in fitting if replica.engine_id in warm_tokens]
    if session_id and fitting:
        best = max(fitting, key=lambda r: (_session_rank(session_id, r), r.engine_id))
    elif warm:
        best = min(warm, key=lambda r: (-warm_tokens[r.engine_id], r.outstanding, r.engine_id))
    else:
        # Hashing costs more than comparing, so only the least loaded ones are hashed.
        least = min(replica.outstanding for replica in free)
        equal = (replica for replica in free if replica.outstanding == least)
        best = min(equal, key=lambda r: (_rank(spread_by, r), r.engine_id))
    return best.engine_id


def most_outstanding(replicas: Sequence[Replica]) -> int:
    """The most sequences, the next one included, that a replica may have to be chosen by prefix."""
    mean = (sum(replica.outstanding for replica in replicas) + 1) / len(replicas)
    return max(ALWAYS_ALLOWED, int(MAX_OF_MEAN_LOAD * mean))


def _session_rank(session_id: str, replica: Replica) -> bytes:
    """As _rank(), by a hash that spreads similar names too.

    With the bound on the load, an overloaded replica's sessions go to their next one each, as in
    Mirrokni et al. above.
    """
    return blake2b(f"{session_id} {replica.engine_id}".encode(), digest_size=8).digest()


def _rank(spread_by: int, replica: Replica) -> int:
    """Source: Thaler, Ravishankar, "A Name-Based Mapping Scheme for Rendezvous" (1996)."""
    return crc32(f"{spread_by} {replica.engine_id}".encode()) if spread_by else 0
