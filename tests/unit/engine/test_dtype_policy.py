import pytest

from mlxmesh_engine.forward.blas import Blas
from mlxmesh_engine.forward.dtype_policy import DtypeChoice, Weights, choose_dtype
from mlxmesh_shared.errors import InsufficientMemory

GIB = 2**30
BF16 = Weights("bfloat16", 0, values=GIB)
F32 = Weights("float32", 0, values=GIB)
FOUR_BIT = Weights("bfloat16", 4, values=GIB)


def choose(
    asked: str,
    weights: Weights,
    *,
    free_gib: float = 100,
    device: str = "cpu",
    blas: Blas = "openblas",
) -> DtypeChoice:
    return choose_dtype(
        asked, weights, device=device, blas=blas, available_bytes=lambda: int(free_gib * GIB)
    )


@pytest.mark.parametrize("weights", [BF16, FOUR_BIT])
def test_a_linux_cpu_expands_types_that_blas_lacks(weights: Weights) -> None:
    choice = choose("auto", weights)
    assert (choice.dtype, choice.convert) == ("float32", True)
    assert weights.description in choice.note


def test_too_little_memory_keeps_the_shipped_type_and_says_so() -> None:
    choice = choose("auto", BF16, free_gib=4.9)
    assert (choice.dtype, choice.convert) == ("bfloat16", False)
    assert "4,096 MiB" in choice.note
    assert choose("auto", BF16, free_gib=5.1).convert


def test_packed_weights_that_are_not_expanded_stay_packed_and_compute_in_float32() -> None:
    """On a CPU, mlx multiplies them in float16 at a 37th of the speed."""
    for choice in (
        choose("auto", FOUR_BIT, free_gib=4.9),
        choose("auto", FOUR_BIT, blas="reference"),
    ):
        assert (choice.dtype, choice.convert, choice.unpack) == ("float32", True, False)
        assert "computed in float32" in choice.note
    assert choose("auto", FOUR_BIT, free_gib=5.1).unpack


@pytest.mark.parametrize(
    ("device", "blas"), [("metal", "accelerate"), ("cuda", "openblas"), ("cpu", "reference")]
)
def test_other_devices_keep_the_shipped_type(device: str, blas: Blas) -> None:
    assert not choose("auto", BF16, device=device, blas=blas).convert


def test_float32_is_kept() -> None:
    assert not choose("auto", F32, free_gib=0).convert


def test_as_shipped_is_kept() -> None:
    choice = choose("as_shipped", FOUR_BIT)
    assert (choice.dtype, choice.convert) == ("bfloat16", False)


def test_an_explicit_type_is_used_or_refused() -> None:
    assert choose("float16", BF16, device="metal").dtype == "float16"
    assert choose("bfloat16", FOUR_BIT).convert
    with pytest.raises(InsufficientMemory, match="4,096 MiB as float32"):
        choose("float32", BF16, free_gib=3.9)
