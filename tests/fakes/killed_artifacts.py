"""Pulls or imports in a process that kills itself at one of its operations on files."""

import asyncio
import os
import signal
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mlxmesh_model.artifacts.progress import Progress
from tests.fakes.artifact_rig import ArtifactRig, artifact_rig
from tests.fakes.model_directory import write_model

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.fakes.killed_artifacts"])
# What Python audits of the operations that change files.
_CHANGES = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod")

FINISHED = 0


async def killed_at(operation: int, home: Path, endpoint: str, gguf: Path | None = None) -> int:
    """The exit code of a pull of mlx/pocket, or of an import; FINISHED if it has fewer operations.

    operation: the number of the operation that is not done any more, from 1.
    """
    process = _CONTEXT.Process(target=_run, args=(operation, home, endpoint, gguf))
    process.start()
    await asyncio.to_thread(process.join)
    code = process.exitcode
    process.close()
    assert code in (FINISHED, -signal.SIGKILL), code
    return code


def _run(operation: int, home: Path, endpoint: str, gguf: Path | None) -> None:
    left = operation
    models = str(home.resolve() / "models")

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in _CHANGES and arguments and str(arguments[0]).startswith(models):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    asyncio.run(_work(home, endpoint, gguf))


async def convert_quickly(file: Path, directory: Path, dtype: str, progress: Progress) -> None:
    """A conversion to a directory of weights as large as the file, in steps like the real one."""
    partial = directory.with_name(f"{directory.name}.part")
    write_model(partial, rows=file.stat().st_size // 16)
    partial.replace(directory)


async def _work(home: Path, endpoint: str, gguf: Path | None) -> None:
    async with artifact_rig(home, endpoint, convert=convert_quickly) as rig:
        await rig.recover()
        await work(rig, gguf)


async def work(rig: ArtifactRig, gguf: Path | None) -> None:
    """The pull or the import."""
    if gguf is None:
        await rig.pull("mlx/pocket")
    else:
        await rig.import_file("pocket", gguf)
