"""A process may end while the native thread that used MLX still does."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from mlxmesh_engine.service.encoder_thread import EncoderThread
from mlxmesh_engine.service.mlx_thread import MlxThread


@pytest.mark.skipif(sys.platform != "linux", reason="delays the end of a thread by glibc")
@pytest.mark.parametrize("kind", ["generate", "encode", "follow"])
def test_an_interpreter_that_ends_before_its_mlx_thread_is_not_aborted(
    kind: str, tiny_model: Path
) -> None:
    command = [sys.executable, "-m", "tests.fakes.slow_thread_end", kind, str(tiny_model)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("kind", [MlxThread, EncoderThread])
async def test_a_failed_load_is_reported_once_its_thread_has_ended(
    kind: type[MlxThread | EncoderThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller ends the process then, and would abort a thread that is still in MLX."""

    def fail() -> NoReturn:
        raise ValueError("no such model")

    monkeypatch.setattr("mlx.core.clear_streams", lambda: time.sleep(0.5))
    with pytest.raises(ValueError, match="no such model"):
        await kind(fail).start(lambda *_: None)
    assert "mlx" not in {thread.name for thread in threading.enumerate()}
