"""The engine's step loop on a real model, stepped by the test."""

import itertools
import time
from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.adapters.slots import AdapterSlots
from mlxmesh_engine.forward.blas import Blas
from mlxmesh_engine.forward.loader import LoadedModel, load
from mlxmesh_engine.prefixes.directory import PrefixDirectory
from mlxmesh_engine.scheduling.request import Logprobs, SequenceRequest, StepOutputs, Update
from mlxmesh_engine.scheduling.scheduler import Scheduler
from mlxmesh_engine.service.step_loop import StepLoop
from mlxmesh_engine.speculation.speculation import Speculation
from tests.fakes.tiny_model import BLAS, mx

STREAM = 1


def load_model(
    path: Path,
    *,
    dtype: str = "auto",
    context_tokens: int = 0,
    blas: Blas = BLAS,
    cpu_forward: bool = True,
    available_bytes: int = 2**34,
    kv_cache_type: str = "full",
) -> LoadedModel:
    return load(
        path,
        blas=blas,
        dtype=dtype,
        context_tokens=context_tokens,
        cpu_forward=cpu_forward,
        kv_cache_type=kv_cache_type,
        available_bytes=lambda: available_bytes,
    )


class Rig:
    """One step loop and all updates that it has emitted, by sequence id."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_running: int = 64,
        prefill_tokens_per_step: int = 512,
        prefill_slowdown: float = 1.7,
        prefix_cache_bytes: int = 0,
        prefix_directory: PrefixDirectory | None = None,
        kv_capacity_tokens: int | None = None,
        speculation: Speculation | None = None,
        max_adapters: int = 64,
        adapter_bytes: int = 2**30,
        interrupted: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.adapters = AdapterSlots(
            loaded.model.adapters, max_adapters=max_adapters, max_bytes=adapter_bytes
        )
        self.scheduler = Scheduler(
            max_running=max_running,
            prefill_tokens_per_step=prefill_tokens_per_step,
            prefill_slowdown=prefill_slowdown,
            kv_capacity_tokens=kv_capacity_tokens,
            interruptible=loaded.model.interruptible,
            adapters=self.adapters,
        )
        self.loop = StepLoop(
            loaded,
            self.scheduler,
            prefix_cache_bytes=prefix_cache_bytes,
            prefix_directory=prefix_directory,
            adapters=self.adapters,
            speculation=speculation,
            interrupted=interrupted,
            clock=clock,
        )
        self.loaded = loaded
        self.updates: dict[int, list[Update]] = {}

    def submit(self, *requests: SequenceRequest) -> "Rig":
        for request in requests:
            self.loop.submit(request)
        return self

    def step(self, times: int = 1) -> StepOutputs:
        outputs: StepOutputs = {}
        for _ in range(times):
            outputs = {}
            for part in self.loop.step():
                for stream_id, updates in part.items():
                    outputs.setdefault(stream_id, []).extend(updates)
            for update in itertools.chain.from_iterable(outputs.values()):
                self.updates.setdefault(update.sequence_id, []).append(update)
        return outputs

    def run(self) -> "Rig":
        """Steps until every sequence ended."""
        for _ in range(20_000):
            if self.loop.idle:
                return self
            self.step()
            if self.loop.blocked:
                time.sleep(0.001)  # the adapter's files are being read on another thread
        raise AssertionError("the loop did not end")

    def tokens(self, sequence_id: int) -> list[int]:
        found = (update.token_ids for update in self.updates[sequence_id])
        return list(itertools.chain.from_iterable(found))

    def logprobs(self, sequence_id: int) -> tuple[Logprobs | None, Logprobs | None]:
        """Those of the prompt, and those of the output."""
        joined = reduce(Update.followed_by, self.updates[sequence_id])
        return joined.prompt_logprobs, joined.logprobs

    def last(self, sequence_id: int) -> Update:
        return self.updates[sequence_id][-1]


def scores_after(loaded: LoadedModel, tokens: Iterable[int]) -> NDArray[np.float64]:
    """The model's scores (length, vocab) after each of the tokens, in one pass without the loop."""
    (scores,) = loaded.model.scores([list(tokens)], loaded.model.new_cache([None]))
    return np.array(scores.astype(mx.float32)).astype(np.float64)
