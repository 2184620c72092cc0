"""The real engine as a child process, for tests that use it as a black box."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POCKET_MINI = Path(__file__).parents[2] / "deploy" / "demo-model" / "pocket-mini"


@contextmanager
def engine_child(data_dir: Path, *flags: str, model_dir: Path = POCKET_MINI) -> Iterator[str]:
    """Yields its address; it ends with the context, and with this process however that ends."""
    command = [sys.executable, "-m", "mlxmesh_engine", "--data-dir", str(data_dir)]
    command += ["--engine-id", "engine-1", "--model", "pocket", "--model-version", "1"]
    command += ["--model-dir", str(model_dir), *flags]
    log = data_dir / "engine.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "MLXMESH_EXIT_WITH_PARENT": "1"},
        ) as child,
    ):
        try:
            yield _address(child, log)
        finally:
            assert child.stdin is not None
            child.stdin.close()
            child.wait(timeout=30)


def _address(child: "subprocess.Popen[bytes]", log: Path) -> str:
    assert child.stdout is not None
    for line in child.stdout:
        outputs = json.loads(line)
        if "address" in outputs:
            return outputs["address"]
    raise AssertionError(f"the engine did not start: {log.read_text()[-2000:]}")
