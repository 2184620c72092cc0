"""Fast float32 products on a Linux CPU; must run before anything imports mlx.

The Linux wheel of mlx brings the reference BLAS. Its symbols resolve to OpenBLAS when that was
loaded globally before: 10 to 20 times faster, with no rebuild.
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
_CPU_FACTS = Path("/proc/cpuinfo")
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@dataclass(frozen=True, slots=True)
class OpenedBlas:
    """Which BLAS serves float32 products on the CPU, from which file, and why not a better one."""

    blas: Blas
    library: str = ""
    problem: str = ""

    @property
    def fix(self) -> str:
        """What its user can do about the slow one."""
        return (
            f"float32 products run on the slow reference BLAS: {self.problem}; fix that, or "
            "install a system-wide OpenBLAS (Debian, Ubuntu: apt-get install "
            "libopenblas0-pthread; Fedora: dnf install openblas-openmp), and restart the engine"
        )


def prepare_blas() -> Blas:
    """Loads OpenBLAS where it helps (Linux) and says which BLAS serves products on the CPU."""
    return open_blas().blas


def open_blas(
    *,
    platform: str = sys.platform,
    cache: Path | None = None,
    system_libraries: Iterable[str] | None = None,
) -> OpenedBlas:
    """As `prepare_blas`, with the file and the problem.

    cache: where the file made of PyPI's OpenBLAS is kept; by default the user's cache.
    system_libraries: what is tried after it; by default where Linux distributions install one.
    """
    if platform == "darwin":
        return OpenedBlas("accelerate")
    if platform != "linux":
        return OpenedBlas("reference", problem=f"OpenBLAS is not looked for on {platform}")
    # At decode, a second thread gave nothing and took a core from serving.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if takes_avx512_for_avx2(_read(_CPU_FACTS)):
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    problem = ""
    try:
        library = _open_cached(cache)
    except (OSError, OpenBlasUnavailable) as error:
        problem = str(error)
        library = _open_first(_system_libraries() if system_libraries is None else system_libraries)
    return OpenedBlas("openblas" if library else "reference", library, problem)


def takes_avx512_for_avx2(cpu_facts: str) -> bool:
    """Whether OpenBLAS may choose its AVX2 kernels on a CPU that has AVX-512.

    It knows CPUs by model number: up to 0.3.2x it takes newer AMD ones for older. On a Zen 5 its
    AVX-512 kernels made a decode step of one row take 0.57 of the time, of 32 rows 0.87.
    cpu_facts: as in /proc/cpuinfo; of another form, the answer is no.
    """
    fields = dict(line.split(":", 1) for line in cpu_facts.splitlines() if ":" in line)
    named = {name.strip(): value.split() for name, value in fields.items()}
    return named.get("vendor_id") == ["AuthenticAMD"] and _AVX512.issubset(named.get("flags", []))


def _open_cached(cache: Path | None) -> str:
    """Raises: OpenBlasUnavailable, and OSError when the file cannot be opened."""
    library = str(cached_openblas(default_cache_dir() if cache is None else cache))
    _open(library)
    return library


def _open_first(libraries: Iterable[str]) -> str:
    """The first that opens, or nothing."""
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
    """Names before the slow search by `find_library`, which starts processes."""
    yield from _NAMES
    if found := find_library("openblas"):
        yield found
    yield from (f"{folder}/{name}" for folder in _FOLDERS for name in _NAMES)
