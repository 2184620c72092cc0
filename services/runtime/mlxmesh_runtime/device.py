"""This host's device and memory: what they are, what is free, and what a model needs."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import psutil

from mlxmesh_runtime.engine_record import EngineSpec
from mlxmesh_runtime.memory_guard import ENGINE_OVERHEAD_BYTES, Memory, wired_limit_bytes
from mlxmesh_runtime.rank_placement import PPM


def needed_bytes(spec: EngineSpec, share_ppm: int = 0) -> int:
    """The minimum memory for an engine: the weights as shipped, and the process.

    share_ppm: of the weights, for a rank of a group; 0 for an equal part.

    An engine on a CPU expands weights to float32 only if memory allows it, so the expanded size
    does not count.
    """
    draft_dir = spec.options.draft_dir
    folders = [spec.model_dir] if draft_dir is None else [spec.model_dir, draft_dir]
    files = [file for folder in folders for file in folder.glob("*.safetensors")]
    # Of files that are not at their path, only the sizes of the weights are known.
    weights_bytes = max(sum(file.stat().st_size for file in files), spec.weights_bytes)
    part_bytes = weights_bytes * share_ppm // PPM if share_ppm else weights_bytes // spec.group_size
    return part_bytes + ENGINE_OVERHEAD_BYTES


_DISTRIBUTIONS = ("mlx", "mlx-lm", "grpcio", "mlxmesh")
_CUDA_BACK_ENDS = ("mlx-cuda", "mlx-cuda-12", "mlx-cuda-13")
_CGROUP = Path("/sys/fs/cgroup")
_QUERY_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Device:
    """The constant properties of the host; `kind` is cpu, metal or cuda."""

    host: str
    platform: str
    kind: str
    name: str
    cores: int
    versions: Mapping[str, str]


async def find_device() -> Device:
    """Inspect this host."""
    kind = _kind()
    return Device(
        host=platform.node(),
        platform=f"{platform.system()}-{platform.release()}-{platform.machine()}",
        kind=kind,
        name=await _name(kind),
        cores=os.cpu_count() or 1,
        versions=_versions(),
    )


async def free_memory(kind: str) -> Memory:
    """The memory that models can use on a device of this kind at present."""
    if kind == "cuda":
        # mlx computes on the first GPU.
        printed = await _nvidia_smi("memory.total,memory.free")
        return parse_gpu_memory(printed) or _main_memory()
    memory = _main_memory()
    if kind != "metal":
        return memory
    configured_mb = await _output("sysctl", "-n", "iogpu.wired_limit_mb")
    return replace(memory, wired_limit_bytes=wired_limit_bytes(configured_mb, memory.total_bytes))


def resident_bytes(pid: int) -> int:
    """The resident memory of a process; 0 if it does not exist."""
    try:
        return psutil.Process(pid).memory_info().rss if pid else 0
    except psutil.Error:
        return 0


def _kind() -> str:
    if sys.platform == "darwin":
        return "metal" if platform.machine() == "arm64" else "cpu"
    has_back_end = any(_version(name) for name in _CUDA_BACK_ENDS)
    return "cuda" if has_back_end and shutil.which("nvidia-smi") else "cpu"


async def _name(kind: str) -> str:
    """The device's name; the processor's architecture if it has none."""
    name = ""
    if kind == "cuda":
        name = await _nvidia_smi("name")
    elif sys.platform == "darwin":
        name = await _output("sysctl", "-n", "machdep.cpu.brand_string")
    elif sys.platform == "linux":
        name = cpu_name(_read(Path("/proc/cpuinfo")))
    return name or platform.machine()


def cpu_name(cpuinfo: str) -> str:
    """The model name in a Linux /proc/cpuinfo; empty if it has none (as on ARM)."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return ""


def _main_memory() -> Memory:
    memory = psutil.virtual_memory()
    host = Memory(
        total_bytes=memory.total,
        available_bytes=memory.available,
        swap_used_bytes=psutil.swap_memory().used,
    )
    return within_cgroup(host, _CGROUP) if sys.platform == "linux" else host


def within_cgroup(host: Memory, cgroup: Path) -> Memory:
    """The host's memory, reduced to a container's limit (cgroup v2) if there is one.

    Source: the kernel's admin-guide/cgroup-v2: memory.max, memory.current, memory.stat.
    """
    limit, used = _read(cgroup / "memory.max").strip(), _read(cgroup / "memory.current").strip()
    if not (limit.isdecimal() and used.isdecimal()):
        return host
    # Page cache counts as used, but the kernel reclaims it on demand.
    stat = dict(line.split() for line in _read(cgroup / "memory.stat").splitlines())
    free_bytes = int(limit) - int(used) + int(stat.get("inactive_file", "0"))
    return replace(
        host,
        total_bytes=min(host.total_bytes, int(limit)),
        available_bytes=max(0, min(host.available_bytes, free_bytes)),
    )


def parse_gpu_memory(printed: str) -> Memory | None:
    """Total and free memory from the output of nvidia-smi; None if it has neither."""
    words = printed.split(", ")
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return None
    total_mib, free_mib = map(int, words)
    return Memory(total_bytes=total_mib * 2**20, available_bytes=free_mib * 2**20)


async def _nvidia_smi(what: str) -> str:
    return await _output(
        "nvidia-smi", "--id=0", f"--query-gpu={what}", "--format=csv,noheader,nounits"
    )


async def _output(*command: str) -> str:
    """The output of a command; empty if it fails, is missing, or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=DEVNULL)
    except OSError:
        return ""
    try:
        async with asyncio.timeout(_QUERY_TIMEOUT_S):
            printed, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return ""
    return printed.decode(errors="replace").strip() if process.returncode == 0 else ""


def _versions() -> dict[str, str]:
    found = {name: _version(name) for name in _DISTRIBUTIONS}
    return {"python": platform.python_version()} | {k: v for k, v in found.items() if v}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
