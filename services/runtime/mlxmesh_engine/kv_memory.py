"""How much memory keys and values may take: pure."""

from dataclasses import dataclass

# Of what is free once the weights are loaded; the rest is for the computation and for others.
_PART_OF_AVAILABLE = 0.5


@dataclass(frozen=True, slots=True)
class KvMemory:
    """What one token takes, and what all sequences that run may take together; 0: not known."""

    token_bytes: int
    capacity_bytes: int

    @property
    def capacity_tokens(self) -> int | None:
        """None when it is not known: then only the number of sequences is bounded."""
        return self.capacity_bytes // self.token_bytes if self.token_bytes else None


UNKNOWN = KvMemory(token_bytes=0, capacity_bytes=0)


def kv_memory(
    *, token_bytes: int, context_tokens: int, available_bytes: int, asked_bytes: int | None
) -> KvMemory:
    """As asked, else half of what is available; without being asked, never below one context."""
    if asked_bytes is not None:
        return KvMemory(token_bytes, asked_bytes)
    one_context = token_bytes * context_tokens
    return KvMemory(token_bytes, max(one_context, int(available_bytes * _PART_OF_AVAILABLE)))
