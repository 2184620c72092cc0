from pathlib import Path

import pytest

from mlxmesh_runtime.device import ENGINE_OVERHEAD_BYTES, Memory, check_fits, needed_bytes
from mlxmesh_shared.errors import InsufficientMemory

GIB = 2**30


def test_the_needed_memory_is_weights_and_overhead(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x" * 24)
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 5000)
    assert needed_bytes(tmp_path) == 1024 + ENGINE_OVERHEAD_BYTES


def test_linked_weights_count(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"x" * 300)
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    assert needed_bytes(tmp_path) == 300 + ENGINE_OVERHEAD_BYTES


@pytest.mark.parametrize(
    ("needed", "reserved", "fits"),
    [
        (9 * GIB, 0, True),
        (9 * GIB + 1, 0, False),
        (4 * GIB, 5 * GIB, True),
        (5 * GIB, 5 * GIB, False),
    ],
)
def test_the_limit_is_a_fraction_of_the_free_memory(needed: int, reserved: int, fits: bool) -> None:
    memory = Memory(total_bytes=16 * GIB, available_bytes=10 * GIB)

    def check() -> None:
        check_fits(needed_bytes=needed, reserved_bytes=reserved, memory=memory, memory_fraction=0.9)

    if fits:
        check()
    else:
        with pytest.raises(InsufficientMemory):
            check()


def test_a_refusal_names_the_figures() -> None:
    memory = Memory(total_bytes=16 * GIB, available_bytes=GIB)
    with pytest.raises(InsufficientMemory) as refusal:
        check_fits(
            needed_bytes=20 * GIB, reserved_bytes=2 * GIB, memory=memory, memory_fraction=0.5
        )
    assert refusal.value.message == (
        "the model needs at least 20,480 MiB, but 0 MiB can be used: 50% of 0 MiB free memory, "
        "of 16,384 MiB in total, with 2,048 MiB reserved for loading engines; unload a model, or "
        "load a smaller or quantized one"
    )
