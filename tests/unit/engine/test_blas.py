from pathlib import Path

import pytest

from mlxmesh_engine.forward.blas import misdetects_avx512, open_blas

NO_CACHE = Path("/dev/null")


def test_macos_uses_accelerate() -> None:
    assert open_blas(platform="darwin").blas == "accelerate"


def test_nothing_is_loaded_elsewhere() -> None:
    assert open_blas(platform="freebsd").blas == "reference"


def test_linux_without_openblas_says_what_to_do() -> None:
    opened = open_blas(platform="linux", cache=NO_CACHE, system_libraries=["libnosuchblas.so.9"])
    assert (opened.blas, opened.library) == ("reference", "")
    assert opened.problem
    assert opened.problem in opened.fix
    assert "apt-get install libopenblas0-pthread" in opened.fix


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
def test_openblas_is_configured_for_avx512_if_misdetected(facts: str, answer: bool) -> None:
    flags = "fpu avx2 avx512f avx512dq avx512cd avx512bw avx512vl avx512_bf16"
    assert misdetects_avx512(facts.format(all=flags)) is answer
