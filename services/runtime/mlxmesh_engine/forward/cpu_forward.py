"""The forward pass for CPUs behind the interface of `Forward`."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np

from mlxmesh_engine.cpu.blocks import Decoder
from mlxmesh_engine.cpu.cache import HostCache
from mlxmesh_engine.cpu.forward import DecoderPass
from mlxmesh_engine.cpu.kv_format import FULL, KvFormat
from mlxmesh_engine.scheduling.images import PromptImages


class CpuForward:
    """Computes at once, on the calling thread; implements `Forward`."""

    asynchronous = False
    interruptible = True

    def __init__(self, decoder: Decoder, kv_format: KvFormat = FULL) -> None:
        self._pass = DecoderPass(decoder, kv_format)
        self.adapters = decoder.adapters
        self.vocab_size = decoder.vocab_size
        self.token_bytes = self._pass.token_bytes

    def interrupt_when(self, wanted: Callable[[], bool] | None) -> None:
        self._pass.interrupt = wanted

    def new_cache(
        self, prefixes: Sequence[Any], images: Sequence[PromptImages | None] = ()
    ) -> HostCache:
        return self._pass.new_cache(prefixes)

    def prefill(self, rows: Sequence[Sequence[int]], cache: HostCache) -> None:
        self._pass.hidden(rows, cache.sequences)

    def decode(self, inputs: mx.array, cache: HostCache) -> mx.array:
        tokens = cast("list[int]", cast("Any", inputs).tolist())
        hidden = self._pass.hidden([[token] for token in tokens], cache.sequences)
        return mx.array(self._pass.scores(hidden))

    def decode_several(self, rows: Sequence[Sequence[int]], cache: HostCache) -> mx.array:
        return mx.array(self._pass.scores(self._pass.hidden(rows, cache.sequences)))

    def scores(self, rows: Sequence[Sequence[int]], cache: HostCache) -> list[mx.array]:
        scores = self._pass.scores(self._pass.hidden(rows, cache.sequences))
        ends = np.cumsum([len(row) for row in rows])
        return [mx.array(part) for part in np.split(scores, ends[:-1])]
