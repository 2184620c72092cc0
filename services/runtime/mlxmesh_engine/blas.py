"""Fast float32 products on a Linux CPU; must run before anything imports mlx.

The Linux wheel of mlx brings the reference BLAS. Its symbols resolve to OpenBLAS when that was
loaded globally before: on two cores that is 10 to 20 times faster, with no rebuild.
"""

import ctypes
import os
import sys
from collections.abc import Sequence as Seq
from ctypes.util import find_library
from typing import Literal

Blas = Literal["openblas", "accelerate", "reference"]

_NAMES = ("libopenblas.so.0", "libopenblas.so")
_FOLDERS = ("/usr/lib64", "/usr/local/lib", "/opt/OpenBLAS/lib", "/opt/openblas/lib")
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
    for library in _candidates() if candidates is None else candidates:
        try:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return "openblas"
    return "reference"


def _candidates() -> list[str]:
    found = find_library("openblas")
    in_folders = [f"{folder}/{name}" for folder in _FOLDERS for name in _NAMES]
    return [*_NAMES, *([found] if found else []), *in_folders]
