"""The prefix cache's second tier: what it holds is written to disk, and read at submission."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from mlxmesh_engine.prefixes.codecs import Codec
from mlxmesh_engine.prefixes.directory import Name, PrefixDirectory
from mlxmesh_engine.prefixes.host_row import HostRow


@dataclass(frozen=True, slots=True)
class PendingRead:
    """A read under way, and what to do with its result on the MLX thread."""

    future: Future[HostRow | None]
    use: Callable[[HostRow], None]


@dataclass(frozen=True, slots=True)
class _Unwritten:
    stored: Any
    names: Sequence[Name]
    block_tokens: int | None
    """None: one file has all of it."""


class DiskTier:
    """Used on the MLX thread."""

    def __init__(self, directory: PrefixDirectory, codec: Codec) -> None:
        self._directory = directory
        self._codec = codec
        self._offered: list[_Unwritten] = []
        self._due: list[_Unwritten] = []
        self._reads: dict[tuple[Name, ...], Future[HostRow | None]] = {}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._directory

    def lengths(self) -> list[int]:
        """The numbers of tokens after which there are files, ascending."""
        return self._directory.lengths()

    def read(self, wanted: Sequence[Name], use: Callable[[Any], None]) -> PendingRead:
        """Starts to read files; those who wait for the same ones share one read.

        use: called on the MLX thread with the row.
        """
        names = tuple(wanted)
        self._reads = {each: read for each, read in self._reads.items() if not read.done()}
        if names not in self._reads:
            self._reads[names] = self._directory.read(names)
        return PendingRead(self._reads[names], use)

    def restored(self, row: HostRow) -> Any:
        return self._codec.from_host(row)

    def offer(self, stored: Any, names: Sequence[Name], block_tokens: int | None = None) -> None:
        """Will write what the cache has stored, as one file or one for each block."""
        if any(digest not in self._directory for digest, _ in names):
            self._offered.append(_Unwritten(stored, names, block_tokens))

    def touch(self, digests: Iterable[bytes]) -> None:
        self._directory.touch(digests)

    def flush(self, *, idle: bool) -> None:
        """Hands to the writer what was offered before the last call; if idle, everything.

        By then it is computed, and nothing waits for it.
        """
        due = self._due + self._offered if idle else self._due
        self._due, self._offered = ([], []) if idle else (self._offered, [])
        for each in due:
            row = self._codec.to_host(each.stored)
            for at, (digest, tokens) in enumerate(each.names):
                size = each.block_tokens
                part = row if size is None else row.part(at * size, (at + 1) * size)
                self._directory.write(digest, tokens, part)
