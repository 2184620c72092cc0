from ctypes.util import find_library

from mlxmesh_engine.blas import MEND, prepare_blas

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
