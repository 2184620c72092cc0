"""Every architecture of mlx-lm, served as docs/models.md says and token for token as by mlx-lm."""

from dataclasses import replace
from pathlib import Path

import pytest

from mlxmesh_engine.forward.loader import device_name
from tests.fakes.engine_rig import load_model
from tests.fakes.tiny_model import mx
from tests.matrix import document
from tests.matrix.configs import NOT_TRIED, architectures
from tests.matrix.examination import BLOCKS, SERVED, Outcome, examine, write_architecture

# One for each kind of cache and each way to be served: these few run in `make test` as well.
_ALWAYS = {"baichuan_m1", "gemma2", "gemma3", "llama4", "mamba", "nemotron_h", "qwen3", "rwkv7"}
_DOCUMENTED = {row.architecture: row for row in document.rows(document.DOCUMENT.read_text())}


def test_the_document_has_a_row_for_every_architecture() -> None:
    outcomes = [_DOCUMENTED[name] for name in architectures()]
    assert document.text(outcomes) == document.DOCUMENT.read_text()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in _ALWAYS else pytest.mark.matrix)
        for name in architectures()
        if name not in NOT_TRIED
    ],
)
def test_an_architecture_is_served_exactly(name: str, tmp_path: Path) -> None:
    found, documented = examine(name, tmp_path), _DOCUMENTED[name]
    if device_name() == "metal" and "Metal" in documented.served:
        documented = found  # the table was made on a CPU
    if device_name() != "cpu":
        documented = replace(documented, cpu_forward=False)
    assert found == documented


@pytest.mark.parametrize("name", ["afm7", "gemma2", "gemma3", "plamo2", "rwkv7"])
def test_weights_of_16_bits_are_batched_as_far_as_those_of_32(name: str, tmp_path: Path) -> None:
    path = write_architecture(tmp_path / name, name, dtype=mx.bfloat16)
    loaded = load_model(path, dtype="as_shipped", cpu_forward=False)
    assert SERVED[loaded.batching] == _DOCUMENTED[name].served


def test_rows_are_read_as_they_are_written() -> None:
    outcomes = [
        Outcome("a", "in batches", BLOCKS, cpu_forward=True),
        Outcome("b-c", "refused: no Metal"),
    ]
    assert document.rows(document.text(outcomes)) == outcomes
