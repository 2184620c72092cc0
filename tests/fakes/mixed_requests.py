"""Requests to an engine that use all of its features in turn, as many as a test needs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.engine.v1 import engine_pb2 as pb
from tests.fakes.adapter_rig import write_source

PREFIX_TOKENS = 64
_PREFIXES = 12
_GRAMMARS = (
    pb.Constraint(regex="[a-z]{4,12}"),
    pb.Constraint(json_schema='{"type": "object", "properties": {"a": {"type": "integer"}}}'),
    pb.Constraint(choices=pb.ConstraintChoices(texts=["yes", "no", "perhaps"])),
)


class MixedRequests:
    """A request is a function of its number, so that all kinds recur."""

    def __init__(
        self, folder: Path, model_dir: Path, *, vocab_size: int, adapters: int, max_tokens: int = 12
    ) -> None:
        self._vocab_size = vocab_size
        self._max_tokens = max_tokens
        sources = [
            write_source(folder / str(seed), model_dir, seed=seed, rank=2 + seed % 3)
            for seed in range(adapters)
        ]
        self._adapters = [
            pb.Adapter(digest=each.digest, directory=each.directory) for each in sources
        ]

    def submit(self, number: int) -> pb.Submit:
        """The request with this sequence id, above 0."""
        # Every ninth has the prompt and the adapter of the one before it.
        follows = number % 9 == 8
        subject = number - 1 if follows else number
        made = pb.Submit(
            sequence_id=number,
            prompt_token_ids=self._prompt(subject),
            max_tokens=1 + number % self._max_tokens,
            sampling=self._sampling(number),
            shares_prefill_of=number - 1 if follows else None,
            background=subject % 7 == 3,
            isolated=number % 50 == 49,
        )
        if which := subject % (len(self._adapters) + 1):
            made.adapter.CopyFrom(self._adapters[which - 1])
        if number % 4 == 1:
            made.constraint.CopyFrom(_GRAMMARS[number % len(_GRAMMARS)])
        if number % 5 == 2:
            made.logprobs.CopyFrom(pb.LogprobOptions(top=3, prompt=number % 2 == 0))
        return made

    def _prompt(self, subject: int) -> Sequence[int]:
        """One of the prefixes, and an end of its own; both repeat themselves."""
        prefix = self._tokens(subject % _PREFIXES, 8) * (PREFIX_TOKENS // 8)
        return prefix + self._tokens(_PREFIXES + subject, 3 + subject % 7) * 4

    def _tokens(self, seed: int, count: int) -> list[int]:
        return np.random.default_rng(seed).integers(3, self._vocab_size, count).tolist()

    def _sampling(self, number: int) -> Sampling:
        match number % 3:
            case 0:
                return Sampling(temperature=0)
            case 1:
                return Sampling(temperature=0.8, top_k=40, min_p=0.02, seed=number)
            case _:
                return Sampling(
                    temperature=1.0, repetition_penalty=1.2, frequency_penalty=0.3, seed=number
                )
