"""Figures of this process and host."""

import os
import socket
from pathlib import Path

from mlxmesh_shared.host.figures import disk_figures, host_figures, process_figures


def test_a_process_knows_itself(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w"):
        figures = process_figures()
    assert figures.pid == os.getpid()
    assert figures.resident_bytes > 10**6
    assert figures.threads >= 1
    assert figures.open_files >= 4
    assert figures.cpu_s > 0


def test_a_host_has_memory_and_a_name() -> None:
    figures = host_figures()
    assert figures.name == socket.gethostname()
    assert 0 < figures.memory_available_bytes <= figures.memory_total_bytes
    assert figures.cores >= 1


def test_a_disk_has_room_and_a_lost_one_has_none(tmp_path: Path) -> None:
    figures = disk_figures(tmp_path)
    assert 0 < figures.free_bytes <= figures.total_bytes
    assert disk_figures(tmp_path / "none").total_bytes == 0
