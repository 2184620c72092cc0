"""Training the demo models: batches, and a run that is interrupted and goes on."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "demo-model"
MODULES = ("chat", "corpus", "examples", "facts", "stories", "tasks", "tool_tasks", "words")

pytest.importorskip("mlx.core")


@pytest.fixture
def batcher() -> Iterator[Any]:
    """A batcher over the shared tokenizer, seed 1, 256 tokens to a batch."""
    tokenizers = pytest.importorskip("tokenizers")
    sys.path.insert(0, str(FOLDER))
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        yield importlib.import_module("corpus").Batcher(tokenizer, 1, 256)
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)


def test_a_pool_is_the_same_every_time(batcher: Any) -> None:
    first = [(ids.tolist(), weights.tolist()) for ids, weights in batcher.pool(0, size=60)]
    again = [(ids.tolist(), weights.tolist()) for ids, weights in batcher.pool(0, size=60)]
    other = [(ids.tolist(), weights.tolist()) for ids, weights in batcher.pool(1, size=60)]
    assert first == again
    assert first != other


def test_batches_hold_every_example_with_little_padding(batcher: Any) -> None:
    batches = list(batcher.pool(0, size=300))
    assert sum(len(ids) for ids, _ in batches) == 300
    padding = sum(int((weights == 0).sum()) for _, weights in batches)
    assert padding < 0.15 * sum(ids.size for ids, _ in batches)
    for ids, weights in batches:
        assert ids.shape == weights.shape
        assert ids.shape[1] % 8 == 0
        assert ids.size <= 256 or len(ids) == 1
        assert {round(weight, 3) for weight in weights.flatten().tolist()} <= {0.0, 0.1, 1.0}


def _train(checkpoints: Path, steps: int) -> dict[str, Any]:
    """Run train.py as a user does; return the progress of its checkpoint."""
    command = [sys.executable, str(FOLDER / "train.py"), "--model", "pocket-mini"]
    options = ["--steps", str(steps), "--batch-tokens", "64", "--print-every", "1"]
    subprocess.run(
        [*command, *options, "--checkpoints", str(checkpoints)],
        check=True,
        timeout=90,
        capture_output=True,
    )
    with (checkpoints / "pocket-mini" / "checkpoint.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return json.loads(header["__metadata__"]["progress"])


def test_a_run_goes_on_from_its_checkpoint_and_writes_a_model(tmp_path: Path) -> None:
    first = _train(tmp_path, steps=2)
    second = _train(tmp_path, steps=3)
    assert (first["step"], second["step"]) == (2, 3)
    assert second["batch"] == first["batch"] + 1
    assert second["tokens"] > first["tokens"]
    written = {path.name for path in (tmp_path / "pocket-mini" / "model").iterdir()}
    assert written == {path.name for path in (FOLDER / "pocket-mini").iterdir()}
