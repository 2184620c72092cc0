"""Gives memory that was freed back to the operating system."""

from __future__ import annotations

import ctypes


def return_free_memory() -> None:
    """Gives freed memory back; does nothing unless the C library is glibc.

    glibc keeps what was freed in an arena for each thread: after a burst of large requests a
    process holds hundreds of megabytes that no other process can use, and the next burst comes on
    top of them. macOS and musl return large blocks by themselves. Takes up to 0.1 s for a
    gigabyte, without the interpreter lock: call it on a thread.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
