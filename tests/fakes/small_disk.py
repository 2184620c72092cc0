"""A real file system of a few pages, which is full at once or may be made read-only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

CAN_MOUNT = sys.platform == "linux" and os.geteuid() == 0
needs_mount = pytest.mark.skipif(
    not CAN_MOUNT, reason="mounting a file system needs Linux and root"
)


class SmallDisk:
    """A mounted file system; what is in it goes with it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, *, left_bytes: int = 0) -> None:
        """Leaves not a byte, or not many."""
        with (self.path / "filler").open("ab") as file:
            for size in (4096, 1):
                try:
                    while True:
                        os.write(file.fileno(), bytes(size))
                except OSError:
                    continue
            file.truncate(file.tell() - left_bytes)

    def free(self) -> None:
        """Makes room again."""
        (self.path / "filler").unlink()

    def make_read_only(self) -> None:
        """As when a disk fails, or is mounted so."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.path)], check=True)


@contextmanager
def small_disk(path: Path, *, size: str = "2m") -> Generator[SmallDisk]:
    """Mounted on an empty directory, which is made; unmounted in the end."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    subprocess.run(command, check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
