"""Gives MLX a fast matrix product on Linux CPUs; import it before the first mlx import."""

import ctypes
import os
import sys


def prefer_openblas() -> bool:
    """Load OpenBLAS, if it is installed, ahead of the reference BLAS of the Linux wheel."""
    if sys.platform != "linux":
        return False
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        print("libopenblas0-pthread is not installed: expect a twentieth of the speed")
        return False
    return True
