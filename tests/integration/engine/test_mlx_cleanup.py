"""A process may end while the native thread that used MLX still does."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="delays the end of a thread by glibc")
@pytest.mark.parametrize("kind", ["generate", "encode", "follow"])
def test_an_interpreter_that_ends_before_its_mlx_thread_is_not_aborted(
    kind: str, tiny_model: Path
) -> None:
    command = [sys.executable, "-m", "tests.fakes.slow_thread_end", kind, str(tiny_model)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
