"""Fast float32 products on a Linux CPU; must run before anything imports mlx.

The Linux wheel of mlx brings the reference BLAS. Its symbols resolve to OpenBLAS when that was
loaded globally before: on two cores that is 10 to 20 times faster, with no rebuild.
"""

import ctypes
import os
import sys
from collections.abc import Sequence as Seq
from ctypes.util import find_library
from pathlib import Path
from typing import Literal

Blas = Literal["openblas", "accelerate", "reference"]

_NAMES = ("libopenblas.so.0", "libopenblas.so")
_FOLDERS = ("/usr/lib64", "/usr/local/lib", "/opt/OpenBLAS/lib", "/opt/openblas/lib")
_CPU_FACTS = Path("/proc/cpuinfo")
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
MEND = (
    "OpenBLAS was not found, so float32 products run on the slow reference BLAS; "
    "install it (Debian, Ubuntu: apt-get install libopenblas0-pthread; Fedora: dnf install "
    "openblas-openmp) and start the engine again"
)


def prepare_blas(*, platform: str = sys.platform, candidates: Seq[str] | None = None) -> Blas:
    """Loads OpenBLAS where it helps (Linux) and says which BLAS serves products on the CPU."""
    if platform == "darwin":
        return "accelerate"
    if platform != "linux":
        return "reference"
    # At decode, a second thread gave nothing and took a core from serving.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if takes_avx512_for_avx2(_read(_CPU_FACTS)):
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    for library in _candidates() if candidates is None else candidates:
        try:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return "openblas"
    return "reference"


def takes_avx512_for_avx2(cpu_facts: str) -> bool:
    """Whether OpenBLAS may choose its AVX2 kernels on a CPU that has AVX-512.

    It knows CPUs by model number: up to 0.3.2x it takes newer AMD ones for older. On a Zen 5 its
    AVX-512 kernels made a decode step of one row take 0.57 of the time, of 32 rows 0.87.
    cpu_facts: as in /proc/cpuinfo; of another form, the answer is no.
    """
    fields = dict(line.split(":", 1) for line in cpu_facts.splitlines() if ":" in line)
    named = {name.strip(): value.split() for name, value in fields.items()}
    return named.get("vendor_id") == ["AuthenticAMD"] and _AVX512.issubset(named.get("flags", []))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _candidates() -> list[str]:
    found = find_library("openblas")
    in_folders = [f"{folder}/{name}" for folder in _FOLDERS for name in _NAMES]
    return [*_NAMES, *([found] if found else []), *in_folders]
