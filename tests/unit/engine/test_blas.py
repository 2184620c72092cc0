from ctypes.util import find_library

import pytest

from mlxmesh_engine.blas import MEND, prepare_blas, takes_avx512_for_avx2

SOME_LIBRARY = find_library("c") or ""


def test_a_mac_has_its_own() -> None:
    assert prepare_blas(platform="darwin") == "accelerate"


def test_nothing_is_loaded_elsewhere() -> None:
    assert prepare_blas(platform="freebsd") == "reference"


def test_linux_takes_the_first_that_loads() -> None:
    found = prepare_blas(platform="linux", candidates=["libnosuchblas.so.9", SOME_LIBRARY])
    assert found == "openblas"


def test_linux_says_when_there_is_none() -> None:
    assert prepare_blas(platform="linux", candidates=["libnosuchblas.so.9"]) == "reference"


def test_the_mend_names_a_command() -> None:
    assert "apt-get install libopenblas0-pthread" in MEND


@pytest.mark.parametrize(
    ("facts", "answer"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t\t: {all}\n\nprocessor\t: 1\n", True),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2\n", False),
        ("vendor_id\t: GenuineIntel\nflags\t\t: {all}\n", False),
        ("Features\t: fp asimd\n", False),
        ("", False),
    ],
)
def test_openblas_is_told_of_avx512_where_it_may_not_see_it(facts: str, answer: bool) -> None:
    flags = "fpu avx2 avx512f avx512dq avx512cd avx512bw avx512vl avx512_bf16"
    assert takes_avx512_for_avx2(facts.format(all=flags)) is answer
