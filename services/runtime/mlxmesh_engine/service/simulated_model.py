"""The model and the timing of a simulated engine."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_engine.forward import model_config
from mlxmesh_engine.scheduling.capacity import UNKNOWN_KV, KvMemory, kv_memory
from mlxmesh_engine.scheduling.images import ImageReader
from mlxmesh_engine.scheduling.prefill_plan import PrefillSlice
from mlxmesh_engine.scheduling.request import Logprobs
from mlxmesh_engine.scheduling.sequence import ActiveSequence

_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """A model of which only the configuration is read; satisfies ModelFacts."""

    vocab_size: int
    dimensions = 0
    context_tokens: int
    eos_token_ids: frozenset[int]
    device: str = "cpu"
    dtype: str = "none"
    dtype_note: str = "simulated: no weights are loaded and the tokens are meaningless"
    blas: str = "none"
    weights_bytes: int = 0
    kv: KvMemory = UNKNOWN_KV
    image_reader: ImageReader | None = None

    @classmethod
    def load(
        cls,
        model_dir: Path,
        context_tokens: int = 0,
        *,
        kv_cache_bytes: int | None = None,
        available_bytes: int = 0,
    ) -> "SimulatedModel":
        """Raises: InvalidArgument, FeatureNotSupported, for the same configurations as MLX."""
        config = model_config.read_config(model_dir)
        context_tokens = model_config.context_tokens(config, context_tokens)
        return cls(
            vocab_size=model_config.vocab_size(config),
            context_tokens=context_tokens,
            eos_token_ids=model_config.eos_token_ids(config),
            kv=kv_memory(
                token_bytes=model_config.kv_token_bytes(config),
                context_tokens=context_tokens,
                available_bytes=available_bytes,
                configured_bytes=kv_cache_bytes,
            ),
        )

    def token(self, seed: int, position: int) -> int:
        """The token at a position, whatever the prompt; never one of the model's end tokens."""
        mixed = (seed * 0x9E3779B97F4A7C15 + position * 0xBF58476D1CE4E5B9) & _MASK
        token = (mixed ^ (mixed >> 31)) * 0x94D049BB133111EB >> 24
        token %= self.vocab_size
        while token in self.eos_token_ids:
            token = (token + 1) % self.vocab_size
        return token

    def logprobs(self, active: ActiveSequence, tokens: Sequence[int]) -> Logprobs | None:
        """Each token has half of the probability, the next id a quarter, and so on."""
        if (options := active.request.logprobs) is None:
            return None
        ranks = range(min(options.top, self.vocab_size))
        ids = [(token + rank) % self.vocab_size for token in tokens for rank in ranks]
        values = [(1 + rank) * -math.log(2) for _ in tokens for rank in ranks]
        return Logprobs((-math.log(2),) * len(tokens), tuple(ids), tuple(values))

    def prompt_logprobs(self, slice_: PrefillSlice) -> Logprobs | None:
        """Of the prompt tokens that follow those of the slice."""
        if not (scored := slice_.scored):
            return None
        following = slice_.active.tokens[scored.start + 1 : scored.stop + 1]
        return self.logprobs(slice_.active, following)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a step takes, and how often a failure is injected."""

    step_s: float = 0.005
    """A decode step with any number of rows."""
    prefill_s_per_token: float = 0.00005
    jitter: float = 0.0
    """A step takes up to this fraction longer."""
    failure_rate: float = 0.0
    """The probability that a running sequence fails, per step."""
    stall_rate: float = 0.0
    """The probability that a step hangs."""
    stall_s: float = 1.0

    def duration_s(self, *, decodes: bool, prefill_tokens: int, rng: random.Random) -> float:
        """The duration of one step."""
        busy_s = self.step_s * decodes + self.prefill_s_per_token * prefill_tokens
        busy_s *= 1 + self.jitter * rng.random()
        return busy_s + (self.stall_s if rng.random() < self.stall_rate else 0)
