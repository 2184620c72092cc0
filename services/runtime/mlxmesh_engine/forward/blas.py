"""Loads a fast BLAS for float32 products on a Linux CPU; must run before mlx is imported.

The Linux wheel of mlx ships the reference BLAS. Its symbols resolve to OpenBLAS if that was
loaded globally before: 10 to 20 times faster, without a rebuild.
"""

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlxmesh_engine.forward.openblas_file import OpenBlasUnavailable, cached_openblas
from mlxmesh_shared.host.cache_dir import default_cache_dir

Blas = Literal["openblas", "accelerate", "reference"]

_NAMES = ("libopenblas.so.0", "libopenblas.so")
_FOLDERS = ("/usr/lib64", "/usr/local/lib", "/opt/OpenBLAS/lib", "/opt/openblas/lib")
_CPU_INFO = Path("/proc/cpuinfo")
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@dataclass(frozen=True, slots=True)
class OpenedBlas:
    """The BLAS for float32 products on the CPU, its file, and why it is not a faster one."""

    blas: Blas
    library: str = ""
    problem: str = ""

    @property
    def fix(self) -> str:
        """What a user of the reference BLAS can do."""
        return (
            f"float32 products run on the slow reference BLAS: {self.problem}; fix that, or "
            "install a system-wide OpenBLAS (Debian, Ubuntu: apt-get install "
            "libopenblas0-pthread; Fedora: dnf install openblas-openmp), and restart the engine"
        )


def prepare_blas() -> Blas:
    """Loads OpenBLAS on Linux; returns the BLAS that computes products on the CPU."""
    return open_blas().blas


def open_blas(
    *,
    platform: str = sys.platform,
    cache: Path | None = None,
    system_libraries: Iterable[str] | None = None,
) -> OpenedBlas:
    """As `prepare_blas`, with the file and the problem.

    cache: the directory for the file made of PyPI's OpenBLAS; default: the user's cache.
    system_libraries: tried if that fails; default: the places of Linux distributions.
    """
    if platform == "darwin":
        return OpenedBlas("accelerate")
    if platform != "linux":
        return OpenedBlas("reference", problem=f"OpenBLAS is not supported on {platform}")
    # In decode steps a second thread gained nothing and took a core from serving.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if misdetects_avx512(_read(_CPU_INFO)):
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    problem = ""
    try:
        library = _open_cached(cache)
    except (OSError, OpenBlasUnavailable) as error:
        problem = str(error)
        library = _open_first(_system_libraries() if system_libraries is None else system_libraries)
    return OpenedBlas("openblas" if library else "reference", library, problem)


def misdetects_avx512(cpu_info: str) -> bool:
    """Whether OpenBLAS may choose its AVX2 kernels on a CPU that has AVX-512.

    It detects CPUs by model number: up to 0.3.2x it mistakes new AMD CPUs for older ones. On a
    Zen 5 the AVX-512 kernels reduced the time of a decode step to 0.57 with one row and to 0.87
    with 32 rows. cpu_info: the text of /proc/cpuinfo; False for any other text.
    """
    fields = dict(line.split(":", 1) for line in cpu_info.splitlines() if ":" in line)
    named = {name.strip(): value.split() for name, value in fields.items()}
    return named.get("vendor_id") == ["AuthenticAMD"] and _AVX512.issubset(named.get("flags", []))


def _open_cached(cache: Path | None) -> str:
    """Raises: OpenBlasUnavailable, and OSError when the file cannot be opened."""
    library = str(cached_openblas(default_cache_dir() if cache is None else cache))
    _open(library)
    return library


def _open_first(libraries: Iterable[str]) -> str:
    """Opens the first library that works and returns its name; empty if none does."""
    for library in libraries:
        try:
            _open(library)
        except OSError:
            continue
        return library
    return ""


def _open(library: str) -> None:
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _system_libraries() -> Iterator[str]:
    """Plain names first: `find_library` is slow because it starts processes."""
    yield from _NAMES
    if found := find_library("openblas"):
        yield found
    yield from (f"{folder}/{name}" for folder in _FOLDERS for name in _NAMES)
