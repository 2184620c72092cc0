"""Which adapters are in slots: reading, using, evicting. The layers are a fake without MLX."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from mlxmesh_engine.adapters.layers import Footprint, PreparedAdapter
from mlxmesh_engine.adapters.locating import LocateAdapter, directory_of
from mlxmesh_engine.adapters.slots import AdapterSlots
from mlxmesh_engine.scheduling.request import AdapterSource, SequenceRequest
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_shared.errors import AdapterInvalid, AdapterNotFound, EngineFailed, FetchFailed
from mlxmesh_shared.lora.adapter_files import LoraLayer, read_adapter
from tests.fakes.lora_adapters import random_layers, write_mlx_lm

_Q = "model.layers.0.self_attn.q_proj"


class Layers:
    """Layers of a model with one module; an adapter takes a byte for each of its ranks."""

    def __init__(self) -> None:
        self.slots: dict[int, int] = {}
        """Ranks by slot."""
        self.fails = False

    def shapes(self) -> Mapping[str, tuple[int, int]]:
        return {_Q: (8, 8)}

    def prepare(self, layers: Mapping[str, LoraLayer]) -> PreparedAdapter:
        rank = layers[_Q].rank
        return PreparedAdapter(Footprint(rank, frozenset(layers), rank), {})

    def nbytes(self, slots: Mapping[int, Footprint]) -> int:
        return sum(footprint.nbytes for footprint in slots.values())

    def install(
        self, adapter: PreparedAdapter, slot: int, slots: Mapping[int, Footprint], max_bytes: int
    ) -> None:
        if self.fails:
            raise RuntimeError("out of memory")
        self.slots[slot] = adapter.footprint.rank
        assert set(slots) == set(self.slots)
        assert self.nbytes(slots) <= max_bytes

    def remove(self, slot: int) -> None:
        self.slots.pop(slot, None)

    def select(self, slots: Sequence[int]) -> None: ...


class Rig:
    """Slots with adapters of rank 1, 2, ... in files."""

    def __init__(
        self,
        folder: Path,
        *,
        max_adapters: int = 2,
        max_bytes: int = 100,
        locate: LocateAdapter = directory_of,
    ) -> None:
        self._folder = folder
        self.layers = Layers()
        self.slots = AdapterSlots(
            self.layers, max_adapters=max_adapters, max_bytes=max_bytes, locate=locate
        )

    def source(self, rank: int) -> AdapterSource:
        directory = self._folder / str(rank)
        if not directory.exists():
            write_mlx_lm(directory, random_layers({_Q: (8, 8)}, rank=rank))
        return AdapterSource(read_adapter(directory).digest, str(directory))

    def active(self, rank: int) -> ActiveSequence:
        return ActiveSequence(SequenceRequest((1, rank), (1,), 1, adapter=self.source(rank)))

    def acquire(self, active: ActiveSequence) -> bool:
        """As the scheduler would in the next steps, until the adapter is read."""
        deadline_s = time.monotonic() + 30
        while not self.slots.acquire(active):
            version = self.slots.version
            while version == self.slots.version:
                if self.slots.full or self.slots.pop_failed():
                    return False
                assert time.monotonic() < deadline_s
                time.sleep(0.001)
                self.slots.poll()
        return True

    def used(self, rank: int) -> ActiveSequence:
        active = self.active(rank)
        assert self.acquire(active)
        return active


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_sequences_without_adapters_need_no_slot(rig: Rig) -> None:
    active = ActiveSequence(SequenceRequest((1, 1), (1,), 1))
    assert rig.slots.acquire(active)
    rig.slots.release(active)
    assert (active.slot, rig.slots.digests) == (0, ())


def test_the_files_may_be_at_another_path_of_this_host(tmp_path: Path) -> None:
    asked: list[AdapterSource] = []

    def locate(source: AdapterSource) -> Path:
        asked.append(source)
        return tmp_path / "3"

    rig = Rig(tmp_path, locate=locate)
    source = AdapterSource(rig.source(3).digest, "/nowhere/adapter")
    active = ActiveSequence(SequenceRequest((1, 3), (1,), 1, adapter=source))
    assert rig.acquire(active)
    assert asked == [source]


def test_what_cannot_be_fetched_fails_its_sequences_only(tmp_path: Path) -> None:
    def locate(source: AdapterSource) -> Path:
        raise FetchFailed("no process sent any of it")

    rig = Rig(tmp_path, locate=locate)
    active = rig.active(3)
    deadline_s = time.monotonic() + 30
    while not (failed := rig.slots.pop_failed()):
        assert not rig.slots.acquire(active)
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    [(sequence, error)] = failed
    assert sequence is active
    assert isinstance(error, FetchFailed)


def test_one_slot_for_all_sequences_of_an_adapter(rig: Rig) -> None:
    one, two, other = rig.used(3), rig.used(3), rig.used(4)
    assert (one.slot, two.slot, other.slot) == (1, 1, 2)
    assert rig.layers.slots == {1: 3, 2: 4}
    rig.slots.release(one)
    assert one.slot == 0
    assert not rig.acquire(rig.active(5))
    assert rig.slots.full


def test_the_least_recently_used_is_evicted(rig: Rig) -> None:
    for rank in (3, 4, 3):
        rig.slots.release(rig.used(rank))
    assert rig.used(5).slot == 2
    assert rig.slots.digests == (rig.source(3).digest, rig.source(5).digest)
    assert rig.layers.slots == {1: 3, 2: 5}


def test_a_release_ends_the_wait(rig: Rig) -> None:
    one, _ = rig.used(3), rig.used(4)
    waiting = rig.active(5)
    assert not rig.acquire(waiting)
    version = rig.slots.version
    rig.slots.release(one)
    assert (rig.slots.full, rig.slots.version > version) == (False, True)
    assert rig.acquire(waiting)
    assert waiting.slot == 1


def test_bytes_are_a_limit_as_well(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_adapters=64, max_bytes=8)
    for rank in (2, 3, 3, 7, 1):
        rig.slots.release(rig.used(rank))
    assert rig.layers.slots == {1: 7, 2: 1}
    assert rig.slots.nbytes == 8
    using = rig.used(7)
    assert not rig.acquire(rig.active(2))
    rig.slots.release(using)
    assert rig.acquire(rig.active(2))
    assert rig.layers.slots == {2: 1, 1: 2} or rig.layers.slots == {1: 2}


def test_an_adapter_larger_than_all_slots_fails(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_bytes=4)
    rig.slots.release(rig.used(3))
    failing = rig.active(5)
    assert not rig.slots.acquire(failing)
    error = wait_for_failure(rig, failing)
    assert isinstance(error, AdapterInvalid)
    assert "raise adapter_bytes" in error.message
    assert rig.acquire(rig.active(4))


def wait_for_failure(rig: Rig, active: ActiveSequence) -> Exception:
    deadline_s = time.monotonic() + 30
    while True:
        assert time.monotonic() < deadline_s
        rig.slots.poll()
        assert not rig.slots.acquire(active)
        for failed, error in rig.slots.pop_failed():
            assert failed is active
            return error


def test_missing_files_fail_every_sequence_that_waits_for_them(rig: Rig) -> None:
    source = AdapterSource("0" * 64, "/nowhere")
    first = ActiveSequence(SequenceRequest((1, 1), (1,), 1, adapter=source))
    second = ActiveSequence(SequenceRequest((1, 2), (1,), 1, adapter=source))
    version = rig.slots.version
    assert not rig.slots.acquire(first)
    while rig.slots.version == version:
        time.sleep(0.001)
        rig.slots.poll()
    assert not rig.slots.acquire(first)
    assert not rig.slots.acquire(second)
    failed = rig.slots.pop_failed()
    assert [active for active, _ in failed] == [first, second]
    assert all(isinstance(error, AdapterNotFound) for _, error in failed)
    assert rig.slots.pop_failed() == []


def test_a_slot_that_cannot_be_filled_stays_free(rig: Rig) -> None:
    rig.layers.fails = True
    assert isinstance(wait_for_failure(rig, rig.active(3)), EngineFailed)
    assert rig.layers.slots == {}
    rig.layers.fails = False
    assert rig.acquire(rig.active(3))


def test_what_nobody_waits_for_any_more_delays_nobody(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_adapters=1)
    abandoned = rig.active(3)
    assert not rig.slots.acquire(abandoned)
    version = rig.slots.version
    while rig.slots.version == version:
        time.sleep(0.001)
        rig.slots.poll()
    assert rig.acquire(rig.active(4))


def test_only_as_many_are_read_as_there_are_slots(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_adapters=1)
    assert not rig.slots.acquire(rig.active(3))
    for rank in (4, 5):
        assert not rig.slots.acquire(rig.active(rank))
    while not rig.slots.digests:
        rig.slots.poll()
        rig.slots.acquire(rig.active(3))
    assert rig.slots.digests == (rig.source(3).digest,)
    assert not rig.acquire(rig.active(4))
    assert rig.slots.full
