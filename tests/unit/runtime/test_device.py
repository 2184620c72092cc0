import os
import sys
from pathlib import Path

import pytest

from mlxmesh_runtime.device import (
    cpu_name,
    find_device,
    free_memory,
    parse_gpu_memory,
    resident_bytes,
    within_cgroup,
)
from mlxmesh_runtime.memory_guard import Memory

GIB = 2**30
HOST = Memory(total_bytes=64 * GIB, available_bytes=32 * GIB)


def write_cgroup(folder: Path, *, limit: str, used: int, inactive_file: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive_file}\n")
    return folder


def test_a_container_limit_is_the_memory(tmp_path: Path) -> None:
    cgroup = write_cgroup(tmp_path, limit=str(8 * GIB), used=3 * GIB, inactive_file=GIB)
    assert within_cgroup(HOST, cgroup) == Memory(total_bytes=8 * GIB, available_bytes=6 * GIB)


def test_limit_above_the_host_changes_nothing(tmp_path: Path) -> None:
    cgroup = write_cgroup(tmp_path, limit=str(999 * GIB), used=0, inactive_file=0)
    assert within_cgroup(HOST, cgroup) == HOST


@pytest.mark.parametrize("limit", ["max", ""])
def test_no_limit_is_the_host(tmp_path: Path, limit: str) -> None:
    cgroup = write_cgroup(tmp_path, limit=limit, used=3 * GIB, inactive_file=0)
    assert within_cgroup(HOST, cgroup) == HOST
    assert within_cgroup(HOST, tmp_path / "none") == HOST


def test_cpu_name_where_there_is_one() -> None:
    assert cpu_name("processor\t: 0\nmodel name\t: Fast CPU @ 3: GHz\n") == "Fast CPU @ 3: GHz"
    assert cpu_name("processor\t: 0\nBogoMIPS\t: 50\n") == ""


def test_gpu_memory_is_parsed() -> None:
    assert parse_gpu_memory("81920, 80000") == Memory(
        total_bytes=81920 * 2**20, available_bytes=80000 * 2**20
    )


@pytest.mark.parametrize("printed", ["", "No devices were found", "[N/A], [N/A]", "1, 2, 3"])
def test_gpu_memory_without_figures_is_unknown(printed: str) -> None:
    assert parse_gpu_memory(printed) is None


async def test_the_device_is_found_without_importing_mlx() -> None:
    had_mlx = "mlx" in sys.modules
    device = await find_device()
    memory = await free_memory(device.kind)
    assert device.kind in ("cpu", "metal", "cuda")
    assert device.name
    assert device.cores >= 1
    assert 0 < memory.available_bytes <= memory.total_bytes
    assert ("mlx" in sys.modules) == had_mlx


def test_resident_memory() -> None:
    assert resident_bytes(os.getpid()) > 2**20
    assert resident_bytes(0) == 0
    assert resident_bytes(2**22 + 1) == 0  # above the largest pid
