"""Conversions of GGUF files, each in a process of its own: it may be slow, or die of its file."""

import asyncio
import json
import logging
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any, Protocol

from mlxmesh_model.artifacts.hub import Progress
from mlxmesh_shared.errors import (
    FeatureNotSupported,
    Internal,
    InvalidArgument,
    MeshError,
    ServiceUnavailable,
)
from mlxmesh_shared.host.disk import disk_full

_log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
_FIELD = "file"


class Converter(Protocol):
    """What makes an mlx-lm directory of a GGUF file."""

    async def __call__(self, file: Path, directory: Path, dtype: str, progress: Progress) -> None:
        """The directory appears whole or not at all, in place of what was there; `progress` goes on
        from where it is. Raises: InvalidArgument, DiskFull, ServiceUnavailable,
        Internal.
        """
        ...


async def convert_gguf(file: Path, directory: Path, dtype: str, progress: Progress) -> None:
    """Converts in a process that ends with this one; see the port."""
    growing = directory.with_name(f"{directory.name}.part")
    try:
        await asyncio.to_thread(_make_room, growing)
        await _run(file, growing, dtype, progress)
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        growing.replace(directory)
    finally:
        await asyncio.to_thread(shutil.rmtree, growing, ignore_errors=True)


def _make_room(growing: Path) -> None:
    shutil.rmtree(growing, ignore_errors=True)
    growing.parent.mkdir(parents=True, exist_ok=True)


async def _run(file: Path, growing: Path, dtype: str, progress: Progress) -> None:
    arguments = [str(file), str(growing), *([dtype] if dtype else [])]
    process = await asyncio.create_subprocess_exec(
        # -P: no module of the directory that the service runs in.
        *(sys.executable, "-P", "-m", "mlxmesh_model.gguf", *arguments), stdin=PIPE, stdout=PIPE
    )  # fmt: skip
    try:
        failure = await _follow(process, progress, growing.parent)
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if failure is not None:
        raise failure
    if code != 0:
        _log.error("the conversion of %s ended with %s", file.name, code)
        raise Internal("the conversion ended unexpectedly; see the log of the model service")


async def _follow(process: Process, progress: Progress, place: Path) -> MeshError | None:
    """Reads what the process tells; the failure that it tells of, if any."""
    assert process.stdout is not None
    done, total = progress.done_bytes, progress.total_bytes
    failure: MeshError | None = None
    async for line in process.stdout:
        told: dict[str, Any] = json.loads(line)
        if "failure" in told:
            failure = _failure(told["failure"], told["message"], place)
        else:
            progress.file = WEIGHTS
            progress.done_bytes = done + told["done"]
            progress.total_bytes = total + told["total"]
    return failure


def _failure(kind: str, message: str, place: Path) -> MeshError:
    if kind == "bad":
        return InvalidArgument(f"the GGUF file is damaged: {message}", field=_FIELD)
    if kind == "unsupported":
        return FeatureNotSupported(f"the GGUF file is not taken: {message}", field=_FIELD)
    if kind == "full":
        return disk_full(place, message)
    return ServiceUnavailable(
        f"the GGUF file cannot be read, or the model not be written ({message}); check both disks,"
        " then try again"
    )
