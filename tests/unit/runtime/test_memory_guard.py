from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_runtime.memory_guard import (
    MAX_RESERVE_BYTES,
    SWAP_CALM_S,
    EngineMemory,
    Memory,
    MemoryGuard,
    MemoryLimits,
    check_fits,
    wired_limit_bytes,
)
from mlxmesh_shared.errors import InsufficientMemory

GIB = 2**30
MIB = 2**20
HOST = Memory(total_bytes=16 * GIB, available_bytes=10 * GIB)
LIMITS = MemoryLimits(fraction=0.9)
NO_ENGINES = EngineMemory()
LARGE = EngineMemory(resident_bytes=8 * GIB, committed_bytes=8 * GIB)


@pytest.mark.parametrize(
    ("memory", "limits", "limit_bytes"),
    [
        (HOST, MemoryLimits(fraction=0.5), 8 * GIB),
        (HOST, MemoryLimits(fraction=0.5, engine_bytes=3 * GIB), 3 * GIB),
        (HOST, MemoryLimits(fraction=0.5, engine_bytes=30 * GIB), 8 * GIB),
        (replace(HOST, wired_limit_bytes=7 * GIB), MemoryLimits(fraction=0.5), 7 * GIB),
        (replace(HOST, wired_limit_bytes=12 * GIB), MemoryLimits(fraction=0.5), 8 * GIB),
    ],
)
def test_the_smallest_limit_counts(memory: Memory, limits: MemoryLimits, limit_bytes: int) -> None:
    assert limits.limit_bytes(memory) == limit_bytes


@pytest.mark.parametrize(
    ("configured_mb", "total_gib", "limit_gib"),
    [
        ("0", 24, 16),
        ("0\n", 36, 24),
        ("0", 64, 48),
        ("", 64, 48),  # an older macOS without the setting
        ("unknown oid", 64, 48),
        ("-5", 64, 48),
        ("57344", 64, 56),
        ("999999999", 64, 64),
    ],
)
def test_the_wired_limit_of_a_mac(configured_mb: str, total_gib: int, limit_gib: int) -> None:
    assert wired_limit_bytes(configured_mb, total_gib * GIB) == limit_gib * GIB


@pytest.mark.parametrize(
    ("needed", "loading", "fits"),
    [
        (9 * GIB, 0, True),
        (9 * GIB + 1, 0, False),
        (4 * GIB, 5 * GIB, True),
        (5 * GIB, 5 * GIB, False),
    ],
)
def test_an_engine_may_use_a_fraction_of_the_free_memory(
    needed: int, loading: int, fits: bool
) -> None:
    engines = EngineMemory(loading_bytes=loading)

    def check() -> None:
        check_fits(needed_bytes=needed, memory=HOST, engines=engines, limits=LIMITS)

    if fits:
        check()
    else:
        with pytest.raises(InsufficientMemory):
            check()


def test_a_refusal_for_want_of_free_memory_names_the_figures() -> None:
    memory = Memory(total_bytes=16 * GIB, available_bytes=GIB)
    with pytest.raises(InsufficientMemory) as refusal:
        check_fits(
            needed_bytes=20 * GIB,
            memory=memory,
            engines=EngineMemory(loading_bytes=2 * GIB),
            limits=MemoryLimits(fraction=0.5),
        )
    assert refusal.value.message == (
        "the model needs at least 20,480 MiB, but 0 MiB can be used: 50% of 0 MiB free memory, "
        "of 16,384 MiB in total, with 2,048 MiB reserved for loading engines; unload a model, or "
        "load a smaller or quantized one"
    )


def test_a_host_with_room_for_five_engines_refuses_the_sixth() -> None:
    limits = MemoryLimits(fraction=0.9, engine_bytes=5 * 300 * MIB)
    for count in range(5):
        loading = EngineMemory(committed_bytes=count * 300 * MIB, loading_bytes=count * 300 * MIB)
        check_fits(needed_bytes=300 * MIB, memory=HOST, engines=loading, limits=limits)
    full = EngineMemory(committed_bytes=5 * 300 * MIB, resident_bytes=400 * MIB)
    with pytest.raises(InsufficientMemory) as refusal:
        check_fits(needed_bytes=300 * MIB, memory=HOST, engines=full, limits=limits)
    assert refusal.value.message == (
        "the model needs at least 300 MiB, but 0 MiB can be used: engines may use 1,500 MiB on "
        "this host, and 1,500 MiB of it is in use or reserved for loading engines; unload a "
        "model, or load a smaller or quantized one"
    )


def shortages(*available: int, engines: EngineMemory = LARGE) -> list[int]:
    guard = MemoryGuard(LIMITS)
    return [
        guard.observe(replace(HOST, available_bytes=each), engines, at).shortage_bytes
        for at, each in enumerate(available)
    ]


RESERVE = LIMITS.reserve_bytes(HOST)


def test_a_shortage_begins_below_the_reserve_and_ends_well_above_it() -> None:
    assert 700 * MIB < RESERVE < 900 * MIB
    end = round(1.5 * RESERVE)
    assert shortages(RESERVE, RESERVE - 1, RESERVE + 5, end - 1, end, RESERVE + 5, 1) == [
        0,
        end - RESERVE + 1,
        end - RESERVE - 5,
        1,
        0,
        0,
        end - 1,
    ]


def test_engines_never_have_to_free_more_than_they_have() -> None:
    assert shortages(0, engines=EngineMemory(resident_bytes=5)) == [5]
    assert shortages(0, engines=NO_ENGINES) == [0]


def test_the_reserve_of_a_large_host_is_bounded() -> None:
    large = Memory(total_bytes=512 * GIB, available_bytes=0)
    assert LIMITS.reserve_bytes(large) == MAX_RESERVE_BYTES
    assert MemoryLimits(fraction=1.0).reserve_bytes(large) == 0


def test_engines_above_their_limit_have_to_free_the_difference() -> None:
    guard = MemoryGuard(MemoryLimits(fraction=0.9, engine_bytes=GIB))
    engines = EngineMemory(resident_bytes=3 * GIB, committed_bytes=3 * GIB)
    status = guard.observe(HOST, engines, 0.0)
    assert (status.limit_bytes, status.shortage_bytes) == (GIB, 2 * GIB)
    assert status.available_bytes == 0


def swap_shortages(*samples: tuple[float, int], available_bytes: int = 2 * GIB) -> list[int]:
    guard = MemoryGuard(LIMITS)
    memory = replace(HOST, available_bytes=available_bytes)
    return [
        guard.observe(replace(memory, swap_used_bytes=used), LARGE, now_s).shortage_bytes
        for now_s, used in samples
    ]


def test_swap_that_grows_while_little_is_free_is_a_shortage() -> None:
    before = 5 * GIB  # swapped out long ago, which is no shortage
    assert swap_shortages(
        (0, before),
        (1, before + 63 * MIB),
        (2, before + 64 * MIB),
        (3, before + 200 * MIB),
        (4, before + 100 * MIB),  # some was read back
        (5 + SWAP_CALM_S, before + 100 * MIB),  # nothing was moved out for long
    ) == [0, 0, 64 * MIB, 200 * MIB, 100 * MIB, 0]


def test_swap_that_grows_while_much_is_free_is_none() -> None:
    assert swap_shortages((0, 0), (1, GIB), available_bytes=4 * GIB) == [0, 0]


@given(
    samples=st.lists(
        st.tuples(st.integers(0, 16 * GIB), st.integers(0, 8 * GIB), st.integers(0, 16 * GIB)),
        max_size=20,
    ),
    fraction=st.floats(0.01, 1),
)
def test_the_figures_are_always_possible(
    samples: list[tuple[int, int, int]], fraction: float
) -> None:
    guard = MemoryGuard(MemoryLimits(fraction=fraction))
    for at, (available, swap, resident) in enumerate(samples):
        memory = Memory(16 * GIB, available, swap)
        engines = EngineMemory(resident_bytes=resident, committed_bytes=resident)
        status = guard.observe(memory, engines, float(at))
        assert 0 <= status.shortage_bytes <= resident
        assert 0 <= status.available_bytes <= available
        assert 0 < status.limit_bytes <= 16 * GIB
