"""The engine's step loop on a model with a tokenizer, for sequences with constraints."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mlxmesh_engine.constraints.compiler import ConstraintCompiler
from mlxmesh_engine.constraints.limits import ConstraintLimits
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.request import (
    Constraint,
    FreePrefix,
    Grammar,
    GrammarKind,
    Sampling,
    SequenceRequest,
)
from tests.fakes.engine_rig import STREAM, Rig, load_model
from tests.fakes.tiny_model import EOS, write_model
from tests.fakes.tokenizer_files import byte_level

VOCAB_SIZE = 512
"""More than the tokenizer has."""
DEFAULT_LIMITS = ConstraintLimits()


def write_text_model(path: Path, *, seed: int = 0, **config: Any) -> Path:
    """A small random model whose tokenizer is byte-level."""
    write_model(path, vocab_size=VOCAB_SIZE, seed=seed, **config)
    return byte_level(path)


def compiler_for(
    model_dir: Path,
    limits: ConstraintLimits = DEFAULT_LIMITS,
    vocab_size: int = VOCAB_SIZE,
    eos: int = EOS,
) -> ConstraintCompiler:
    """Call it on an event loop, and close it."""
    return ConstraintCompiler(
        model_dir, vocab_size=vocab_size, eos_token_ids=frozenset({eos}), limits=limits
    )


def constrained(
    number: int,
    kind: GrammarKind | None = None,
    text: str = "",
    *,
    prefix: FreePrefix | None = None,
    max_tokens: int = 200,
    generated: tuple[int, ...] = (),
    stops: Iterable[int] = (),
    prompt: Sequence[int] = (5, 6, 7),
    eos: int = EOS,
    **sampling: Any,
) -> SequenceRequest:
    """A request with a constraint if a grammar or a prefix is given."""
    grammar = None if kind is None else Grammar(kind, text)
    return SequenceRequest(
        (STREAM, number),
        tuple(prompt),
        max_tokens,
        generated=generated,
        sampling=Sampling(**sampling),
        end_token_ids=frozenset({eos, *stops}),
        constraint=Constraint(grammar, prefix) if grammar or prefix else None,
    )


class ConstrainedRig:
    """Compiles constraints and runs sequences to their end, all in one batch."""

    def __init__(
        self, model_dir: Path, loaded: LoadedModel | None = None, *, eos: int = EOS
    ) -> None:
        self.eos = eos
        self.model_dir = model_dir
        self.loaded = loaded or load_model(model_dir)
        self.tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self._runner = asyncio.Runner()
        self._compiler = self._runner.run(self._open())

    def close(self) -> None:
        self._compiler.close()
        self._runner.close()

    def compiled(self, *requests: SequenceRequest) -> list[SequenceRequest]:
        return self._runner.run(self._compile(requests))

    def run(self, *requests: SequenceRequest, loaded: LoadedModel | None = None) -> Rig:
        rig = Rig(loaded or self.loaded)
        return rig.submit(*self.compiled(*requests)).run()

    def text(self, tokens: Iterable[int]) -> str:
        return self.tokenizer.decode([token for token in tokens if token != self.eos])

    async def _open(self) -> ConstraintCompiler:
        return compiler_for(self.model_dir, vocab_size=self.loaded.vocab_size, eos=self.eos)

    async def _compile(self, requests: Sequence[SequenceRequest]) -> list[SequenceRequest]:
        return [
            replace(request, constraint_state=await self._compiler.walker(request))
            if request.constraint
            else request
            for request in requests
        ]
