"""Sequences with all features, one after another, leave no memory behind."""

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

from mlxmesh_engine.prefixes.directory import PrefixDirectory
from mlxmesh_engine.service.convert import ModelLimits, to_request
from tests.fakes.constrained_rig import VOCAB_SIZE, ConstrainedRig, write_text_model
from tests.fakes.engine_rig import STREAM, Rig, load_model
from tests.fakes.mixed_requests import MixedRequests
from tests.fakes.speculation import CheapNgrams
from tests.fakes.tiny_model import CONTEXT_TOKENS, EOS, mx

WAVE = 16
WAVES, WARM_UP = 24, 12
ADAPTERS, SLOTS = 5, 3
LIMITS = ModelLimits(VOCAB_SIZE, CONTEXT_TOKENS, frozenset({EOS}), max_adapters=SLOTS)


class Engine:
    """All features on, each in little memory, so that all of them give memory back."""

    def __init__(self, folder: Path, *, cpu_forward: bool) -> None:
        path = write_text_model(folder / "model")
        self._compiler = ConstrainedRig(path, load_model(path, cpu_forward=cpu_forward))
        self._requests = MixedRequests(
            folder, path, vocab_size=VOCAB_SIZE, adapters=ADAPTERS, max_tokens=12
        )
        self.directory = PrefixDirectory(folder / "prefixes", 2**19, lambda: "m")
        self.speculation = CheapNgrams()
        self.rig = Rig(
            self._compiler.loaded,
            prefix_cache_bytes=2**19,
            prefix_directory=self.directory,
            speculation=self.speculation,
            max_adapters=SLOTS,
        )
        assert self.directory.wait_opened(30)

    def close(self) -> None:
        self._compiler.close()
        self.directory.close(30)

    def run(self, wave: int) -> None:
        """So many at once; some are cancelled before they end."""
        numbers = range(1 + wave * WAVE, 1 + (wave + 1) * WAVE)
        submits = [self._requests.submit(number) for number in numbers]
        requests = [
            to_request(each, stream_id=STREAM, limits=LIMITS, now_s=0.0) for each in submits
        ]
        self.rig.submit(*self._compiler.compiled(*requests)).step(3)
        self.rig.loop.cancel((STREAM, numbers[wave % WAVE]))
        self.rig.run()
        for number in numbers:
            assert self.rig.last(number).error is None, self.rig.last(number).error
        self.rig.updates.clear()

    def memory(self) -> tuple[int, int]:
        """Bytes of MLX's arrays, and blocks of Python's objects."""
        gc.collect()
        mx.clear_cache()
        return mx.get_active_memory(), sys.getallocatedblocks()


@pytest.mark.parametrize("cpu_forward", [True, False], ids=["own pass", "mlx-lm's pass"])
def test_memory_does_not_grow_with_the_requests(tmp_path: Path, *, cpu_forward: bool) -> None:
    engine = Engine(tmp_path, cpu_forward=cpu_forward)
    try:
        for wave in range(WARM_UP):
            engine.run(wave)
        found: list[tuple[int, int]] = []
        for wave in range(WARM_UP, WAVES):
            engine.run(wave)
            found.append(engine.memory())
    finally:
        engine.close()
    assert engine.rig.loop.kv_bytes == 0
    assert engine.rig.loop.prefix_disk.writes > 0
    assert engine.rig.loop.cached_prompt_tokens > 0
    assert len(engine.rig.adapters.digests) == SLOTS
    half = len(found) // 2
    arrays, blocks = (np.array(each) for each in zip(*found, strict=True))
    assert arrays[half:].max() <= 1.05 * arrays[:half].max()
    # A sequence that is kept has tens of them.
    assert np.median(blocks[half:]) - np.median(blocks[:half]) < 4 * half * WAVE
