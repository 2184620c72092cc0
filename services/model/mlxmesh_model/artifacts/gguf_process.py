"""Converts a GGUF file in a separate process, because a conversion may be slow or crash."""

import asyncio
import json
import logging
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any, Protocol

from mlxmesh_model.artifacts.progress import Progress
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
    """Converts a GGUF file to an mlx-lm directory."""

    async def __call__(self, file: Path, directory: Path, dtype: str, progress: Progress) -> None:
        """Replaces the directory atomically once the conversion is complete; adds to `progress`.
        Raises: InvalidArgument, DiskFull, ServiceUnavailable, Internal.
        """
        ...


async def convert_gguf(file: Path, directory: Path, dtype: str, progress: Progress) -> None:
    """Converts in a child process that ends with this process; see the port."""
    partial = directory.with_name(f"{directory.name}.part")
    try:
        await asyncio.to_thread(_prepare, partial)
        await _run(file, partial, dtype, progress)
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        partial.replace(directory)
    finally:
        await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)


def _prepare(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)


async def _run(file: Path, partial: Path, dtype: str, progress: Progress) -> None:
    arguments = [str(file), str(partial), *([dtype] if dtype else [])]
    process = await asyncio.create_subprocess_exec(
        # -P: import no modules from the working directory.
        *(sys.executable, "-P", "-m", "mlxmesh_model.gguf", *arguments), stdin=PIPE, stdout=PIPE
    )  # fmt: skip
    try:
        failure = await _follow(process, progress, partial.parent)
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
    """Reads the process's reports; returns the failure that it reports, if any."""
    assert process.stdout is not None
    done, total = progress.done_bytes, progress.total_bytes
    failure: MeshError | None = None
    async for line in process.stdout:
        message: dict[str, Any] = json.loads(line)
        if "failure" in message:
            failure = _failure(message["failure"], message["message"], place)
        else:
            progress.file = WEIGHTS
            progress.done_bytes = done + message["done"]
            progress.total_bytes = total + message["total"]
    return failure


def _failure(kind: str, message: str, place: Path) -> MeshError:
    if kind == "bad":
        return InvalidArgument(f"the GGUF file is damaged: {message}", field=_FIELD)
    if kind == "unsupported":
        return FeatureNotSupported(f"the GGUF file is not supported: {message}", field=_FIELD)
    if kind == "full":
        return disk_full(place, message)
    return ServiceUnavailable(
        f"the GGUF file cannot be read, or the model cannot be written ({message}); check both"
        " disks, then try again"
    )
