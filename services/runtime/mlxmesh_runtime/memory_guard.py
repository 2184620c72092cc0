"""How much memory engines may use, whether one more fits, and what they have to free. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mlxmesh_shared.errors import InsufficientMemory

GIB = 2**30
# An engine process without its weights: mlx, mlx-lm, a small KV cache and working memory.
ENGINE_OVERHEAD_BYTES = 256 * 2**20
# The host keeps half of what engines may not use, so that it never has to swap; at most this much.
MAX_RESERVE_BYTES = 2 * GIB
# A shortage ends with this many times the reserve available: else it would begin again at once.
RECOVERED_RESERVES = 1.5
# Swap that grows by less is no sign of a shortage, nor is any while much of the memory is free.
MIN_SWAP_GROWTH_BYTES = 64 * 2**20
FREE_SHARE_WITHOUT_PRESSURE = 0.25
# After this long without growth, pages that are swapped out belong to nothing that runs.
SWAP_CALM_S = 60.0


@dataclass(frozen=True)
class Memory:
    """Memory that models can use on a host."""

    total_bytes: int
    available_bytes: int
    swap_used_bytes: int = 0
    wired_limit_bytes: int | None = None  # what the GPU may wire of it, on Apple silicon


@dataclass(frozen=True, kw_only=True)
class EngineMemory:
    """Memory of all engines of a host."""

    resident_bytes: int = 0
    committed_bytes: int = 0  # of each what it will at least need, or more if it uses more
    loading_bytes: int = 0  # what engines that are still loading will need in addition


@dataclass(frozen=True, kw_only=True)
class MemoryLimits:
    """What engines may use: a part of the memory, and at most a number of bytes."""

    fraction: float
    engine_bytes: int | None = None  # None: no other limit

    def limit_bytes(self, memory: Memory) -> int:
        """The largest number of bytes that all engines together may use on this host."""
        limits = [round(self.fraction * memory.total_bytes)]
        limits += [each for each in (memory.wired_limit_bytes, self.engine_bytes) if each]
        return min(limits)

    def room_bytes(self, memory: Memory, engines: EngineMemory) -> int:
        """What one more engine can use at present."""
        free_bytes = max(0, memory.available_bytes - engines.loading_bytes)
        left_bytes = max(0, self.limit_bytes(memory) - engines.committed_bytes)
        return min(round(self.fraction * free_bytes), left_bytes)

    def reserve_bytes(self, memory: Memory) -> int:
        """What has to stay available on the host."""
        return min(MAX_RESERVE_BYTES, round((1 - self.fraction) / 2 * memory.total_bytes))


def check_fits(
    *, needed_bytes: int, memory: Memory, engines: EngineMemory, limits: MemoryLimits
) -> None:
    """Refuse an engine that does not fit beside the others. Raises: InsufficientMemory."""
    usable_bytes = limits.room_bytes(memory, engines)
    if needed_bytes <= usable_bytes:
        return
    limit_bytes = limits.limit_bytes(memory)
    left_bytes = limit_bytes - engines.committed_bytes
    if left_bytes <= usable_bytes:
        why = (
            f"engines may use {_mib(limit_bytes)} on this host, and {_mib(engines.committed_bytes)}"
            " of it is in use or reserved for loading engines"
        )
    else:
        free_bytes = max(0, memory.available_bytes - engines.loading_bytes)
        why = (
            f"{limits.fraction:.0%} of {_mib(free_bytes)} free memory, of "
            f"{_mib(memory.total_bytes)} in total, with {_mib(engines.loading_bytes)} reserved "
            "for loading engines"
        )
    raise InsufficientMemory(
        f"the model needs at least {_mib(needed_bytes)}, but {_mib(usable_bytes)} can be used: "
        f"{why}; unload a model, or load a smaller or quantized one"
    )


@dataclass(frozen=True, kw_only=True)
class MemoryStatus:
    """The memory of a host and of its engines at one time."""

    memory: Memory
    engines: EngineMemory
    limit_bytes: int
    available_bytes: int  # to one more engine
    shortage_bytes: int = 0  # what engines have to free, so that the host does not swap


class MemoryGuard:
    """Follows the memory of a host: a shortage begins below the reserve, and ends well above it.

    Swap that grows while little is free is a shortage as well: the host already moves out pages.
    Engines never have to free more than they have.
    """

    def __init__(self, limits: MemoryLimits) -> None:
        self._limits = limits
        self._short = False
        self._swap_baseline_bytes: int | None = None
        self._swap_peak_bytes = 0
        self._swap_grew_at_s = 0.0

    def observe(self, memory: Memory, engines: EngineMemory, now_s: float) -> MemoryStatus:
        """The status that follows from a sample, and from those before it."""
        limit_bytes = self._limits.limit_bytes(memory)
        over_limit_bytes = max(0, engines.resident_bytes - limit_bytes)
        missing_bytes = max(self._missing_bytes(memory), self._swapped_bytes(memory, now_s))
        return MemoryStatus(
            memory=memory,
            engines=engines,
            limit_bytes=limit_bytes,
            available_bytes=self._limits.room_bytes(memory, engines),
            shortage_bytes=min(engines.resident_bytes, max(missing_bytes, over_limit_bytes)),
        )

    def _missing_bytes(self, memory: Memory) -> int:
        """What is missing to the end of a shortage; 0 while there is none."""
        reserve_bytes = self._limits.reserve_bytes(memory)
        recovered_bytes = round(reserve_bytes * RECOVERED_RESERVES)
        if memory.available_bytes < reserve_bytes:
            self._short = True
        elif memory.available_bytes >= recovered_bytes:
            self._short = False
        return recovered_bytes - memory.available_bytes if self._short else 0

    def _swapped_bytes(self, memory: Memory, now_s: float) -> int:
        """By how much swap has grown since the host was last calm, if little memory is free."""
        used_bytes = memory.swap_used_bytes
        if self._swap_baseline_bytes is None or used_bytes < self._swap_baseline_bytes:
            self._swap_baseline_bytes = self._swap_peak_bytes = used_bytes
        if used_bytes > self._swap_peak_bytes:
            self._swap_peak_bytes, self._swap_grew_at_s = used_bytes, now_s
        much_free = memory.available_bytes >= FREE_SHARE_WITHOUT_PRESSURE * memory.total_bytes
        if much_free or now_s - self._swap_grew_at_s >= SWAP_CALM_S:
            self._swap_baseline_bytes = self._swap_peak_bytes = used_bytes
        grown_bytes = used_bytes - self._swap_baseline_bytes
        return grown_bytes if grown_bytes >= MIN_SWAP_GROWTH_BYTES else 0


def wired_limit_bytes(configured_mb: str, total_bytes: int) -> int:
    """What the GPU of a Mac may wire, from the value of `sysctl iogpu.wired_limit_mb`.

    0 means macOS's own share. Apple does not document it; `recommendedMaxWorkingSetSize` was
    measured at 74% of 16 GB, 75% of 64 GB and 84% of 128 GB, and reported as two thirds on some
    Macs with 36 GB or less. The smaller figure counts: wired memory is never swapped.

    Source: github.com/AlexsJones/llmfit/pull/754, antirez/ds4/issues/890, gpustack/issues/1375.
    """
    configured_mb = configured_mb.strip()
    if configured_mb.isdecimal() and int(configured_mb) > 0:
        return min(int(configured_mb) * 2**20, total_bytes)
    return total_bytes * 2 // 3 if total_bytes <= 36 * GIB else total_bytes * 3 // 4


def _mib(number_of_bytes: int) -> str:
    return f"{max(0, number_of_bytes) / 2**20:,.0f} MiB"
