"""One architecture through the engine's step loop in every phase, against mlx-lm row by row."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxmesh_engine.cache.kv_cache import Batching
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.request import LogprobOptions, SequenceRequest
from mlxmesh_shared.errors import InvalidArgument
from tests.fakes.engine_rig import STREAM, Rig, load_model
from tests.fakes.tiny_model import mx, tree_flatten, tree_map
from tests.matrix.configs import VOCAB_SIZE, config_of

MAX_TOKENS = 8
# Padding errors showed only where prompts of close lengths were prefilled together.
CLOSE_LENGTHS = (20, 21, 23, 24, 27, 29, 31, 34)
MIXED_LENGTHS = (1, 3, 12, 26, 60, 90)
SHARED_PREFIX_TOKENS = 64
_PREFIX_CACHE_BYTES = 2**26
# Two scores that are nearer, relative to how far all lie apart, may change places by rounding.
_ROUNDING = 1e-4
_LOGPROB_TOLERANCE = 1e-3

SERVED = {
    Batching.TOGETHER: "in batches",
    Batching.EQUAL_LENGTHS: "in batches; prompts of equal length are read together",
    Batching.ALONE: "one row at a time",
}

NOT_CACHED, BLOCKS, WHOLE_PROMPTS = "no", "yes", "whole prompts"
_CACHED_TOKENS = {
    NOT_CACHED: 0,
    BLOCKS: 3 * SHARED_PREFIX_TOKENS,
    WHOLE_PROMPTS: 3 * SHARED_PREFIX_TOKENS + 3,
}
"""Of the last three prompts of the warm phase: all that they have in common with earlier ones."""

Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """How an architecture is served, as docs/models.md has it."""

    architecture: str
    served: str
    prefix_cache: str = NOT_CACHED
    cpu_forward: bool = False
    """Whether the forward pass for CPUs serves it in float32."""


def write_architecture(
    folder: Path, name: str, *, dtype: mx.Dtype = mx.float32, **changes: Any
) -> Path:
    """A model directory with random weights. Raises what mlx-lm raises."""
    config = config_of(name, **changes)
    module: Any = import_module(f"mlx_lm.models.{name}")
    model = module.Model(module.ModelArgs.from_dict(config))
    keys = iter(mx.random.split(mx.random.key(sum(name.encode())), 2000))

    def random(weight: mx.array) -> mx.array:
        # Vectors are norms, biases and decays: they begin in a sensible range.
        if not mx.issubdtype(weight.dtype, mx.floating):
            return weight
        if weight.ndim < 2:
            return weight.astype(dtype)
        return (mx.random.normal(weight.shape, key=next(keys)) * 0.2).astype(dtype)

    model.update(tree_map(random, model.parameters()))
    return _write(folder, config, dict(tree_flatten(model.parameters())))


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, mx.array]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class Reference:
    """mlx-lm by itself: greedy, one sequence at a time, on its own caches."""

    def __init__(self, folder: Path) -> None:
        load: Any = import_module("mlx_lm.utils").load_model
        self._model: Any = load(folder)[0]
        self._known: dict[Prompt, tuple[list[int], list[mx.array]]] = {}

    def tokens(self, prompt: Prompt) -> list[int]:
        return self._generated(prompt)[0]

    def check(self, prompt: Prompt, found: Sequence[int]) -> None:
        """Raises AssertionError unless these are its tokens, up to two all but equal scores."""
        tokens, scores = self._generated(prompt)
        for index, (mine, theirs) in enumerate(zip(tokens, found, strict=True)):
            if mine != theirs:
                of_step = np.array(scores[index])
                gap = (of_step[mine] - of_step[theirs]) / of_step[np.isfinite(of_step)].std()
                assert gap < _ROUNDING, f"token {index} of {len(prompt)}: a gap of {gap:.4f}"
                return

    def logprobs(self, tokens: Prompt, together: int = 1) -> NDArray[np.float64]:
        """Of each token after the first; so many tokens in the first pass, then one at a time."""
        cache = import_module("mlx_lm.models.cache").make_prompt_cache(self._model)
        passes = [tokens[:together], *([token] for token in tokens[together:-1])]
        scores = mx.concatenate(
            [self._model(mx.array([list(each)]), cache=cache)[0] for each in passes]
        ).astype(mx.float32)
        all_of_them = np.array(scores - mx.logsumexp(scores, axis=-1, keepdims=True))
        return all_of_them[np.arange(len(tokens) - 1), list(tokens[1:])].astype(np.float64)

    def _generated(self, prompt: Prompt) -> tuple[list[int], list[mx.array]]:
        if prompt not in self._known:
            self._known[prompt] = self._generate(prompt)
        return self._known[prompt]

    def _generate(self, prompt: Prompt) -> tuple[list[int], list[mx.array]]:
        cache = import_module("mlx_lm.models.cache").make_prompt_cache(self._model)
        if len(prompt) > 1:
            self._model(mx.array([prompt[:-1]]), cache=cache)
        tokens, scores = list(prompt[-1:]), list[mx.array]()
        for _ in range(MAX_TOKENS):
            scores.append(self._model(mx.array([tokens[-1:]]), cache=cache)[0, -1])
            tokens.append(int(np.array(mx.argmax(scores[-1]))))
        return tokens[1:], scores


def prompt(seed: int, tokens: int) -> Prompt:
    drawn = np.random.default_rng(seed).integers(3, VOCAB_SIZE, tokens)
    return tuple(int(token) for token in drawn)


class Phases:
    """The phases of one loaded model; each raises AssertionError at a wrong token."""

    def __init__(self, loaded: LoadedModel, reference: Reference) -> None:
        self._loaded = loaded
        self._reference = reference
        self.cached_tokens = 0

    def run(self) -> None:
        close = [prompt(length, length) for length in CLOSE_LENGTHS]
        for one in close[:2]:
            self._check("alone", self._rig(), [one])
        self._check("six at once", self._rig(), [prompt(at, at) for at in MIXED_LENGTHS])
        self._check("close lengths at once", self._rig(), close)
        self._check("in slices", self._rig(prefill_tokens_per_step=16), close[2:5], apart=2)
        self._warm()
        self._two_turns(close[:3])
        self._resumed(close)
        self._shared(close[2:4])
        self._logprobs(close[3])

    def _warm(self) -> None:
        rig, shared = self._rig(), prompt(7, SHARED_PREFIX_TOKENS)
        # Where only whole prompts are cached, the second one finds what both have in common.
        for seed in (8, 9):
            self._check("before a warm prefix", rig, [shared + prompt(seed, 5)])
        before = rig.loop.cached_prompt_tokens
        # Short enough to be prefilled in one pass, of unequal lengths.
        self._check("warm prefix", rig, [shared + prompt(10, 4), shared + prompt(11, 5)])
        self._check("warm prompt", rig, [shared + prompt(10, 4)])
        self.cached_tokens = rig.loop.cached_prompt_tokens - before

    @property
    def prefix_cache(self) -> str:
        """What is cached, as the last three prompts of the warm phase found it."""
        (found,) = [kind for kind, tokens in _CACHED_TOKENS.items() if tokens == self.cached_tokens]
        return found

    def _two_turns(self, prompts: Sequence[Prompt]) -> None:
        rig = self._rig()
        self._check("first turn", rig, prompts)
        second = [(*each, *self._reference.tokens(each), *prompt(11, 7)) for each in prompts]
        self._check("second turn", rig, second)

    def _resumed(self, prompts: Sequence[Prompt]) -> None:
        tokens = [self._reference.tokens(each) for each in prompts]
        done = [tuple(of[: 1 + at % 5]) for at, of in enumerate(tokens)]
        self._check("resumed", self._rig(), prompts, generated=done)

    def _shared(self, prompts: Sequence[Prompt]) -> None:
        """Each prompt for two sequences, at once: the second gets a copy of the first one's row."""
        rig = Rig(self._loaded)
        for number, each in enumerate(prompts):
            first = (STREAM, 2 * number + 1)
            rig.submit(SequenceRequest(first, each, MAX_TOKENS))
            rig.submit(
                SequenceRequest((STREAM, 2 * number + 2), each, MAX_TOKENS, shares_prefill_of=first)
            )
        rig.run()
        for number, each in enumerate(prompts):
            for found in (2 * number + 1, 2 * number + 2):
                assert rig.last(found).error is None, f"shared prefill: {rig.last(found).error}"
                self._reference.check(each, rig.tokens(found))
        copied = sum(len(each) - 1 for each in prompts)
        assert rig.loop.cached_prompt_tokens == copied, "prompts were prefilled twice"

    def _logprobs(self, one: Prompt) -> None:
        """Those of the prompt and the output, beside a row that needs none."""
        rig, options = self._rig(), LogprobOptions(top=3, prompt=True)
        rig.submit(SequenceRequest((STREAM, 1), one, MAX_TOKENS, logprobs=options))
        rig.submit(SequenceRequest((STREAM, 2), one[:-2], MAX_TOKENS)).run()
        tokens = rig.tokens(1)
        self._reference.check(one, tokens)
        found, of_tokens = rig.logprobs(1)
        assert found is not None, "no log-probabilities"
        assert of_tokens is not None, "no log-probabilities"
        both = found.followed_by(of_tokens)
        # mlx-lm's plamo3 sees one more token of its window in a pass than one token at a time.
        gap = min(
            np.abs(np.array(both.chosen) - self._reference.logprobs((*one, *tokens), first)).max()
            for first in (1, len(one) - 1)
        )
        assert gap < _LOGPROB_TOLERANCE, f"log-probabilities differ by {gap}"
        assert len(both.top) == 3 * len(both.chosen)

    def _rig(self, **options: Any) -> Rig:
        return Rig(self._loaded, prefix_cache_bytes=_PREFIX_CACHE_BYTES, **options)

    def _check(
        self,
        phase: str,
        rig: Rig,
        prompts: Sequence[Prompt],
        *,
        generated: Sequence[Prompt] = (),
        apart: int = 0,
    ) -> None:
        """All at once, or each so many turns after the one before."""
        first = 1 + max(rig.updates, default=0)
        for number, each in enumerate(prompts, first):
            made = generated[number - first] if generated else ()
            rig.submit(SequenceRequest((STREAM, number), each, MAX_TOKENS, made))
            rig.step(apart)
        rig.run()
        for number, each in enumerate(prompts, first):
            made = generated[number - first] if generated else ()
            assert rig.last(number).error is None, f"{phase}: {rig.last(number).error}"
            try:
                self._reference.check(each, [*made, *rig.tokens(number)])
            except AssertionError as error:
                raise AssertionError(f"{phase}: {error}") from None


def examine(name: str, folder: Path) -> Outcome:
    """How an architecture is served. Raises AssertionError when a token is wrong."""
    path = folder / name
    try:
        write_architecture(path, name)
    except SystemExit:
        # Its module ends the process where a package is missing; loading must not.
        _write(path, config_of(name), {"weight": mx.zeros(1)})
    try:
        loaded = load_model(path, cpu_forward=False)
    except InvalidArgument as error:
        return Outcome(name, f"refused: {error.message}")
    reference = Reference(path)
    phases = Phases(loaded, reference)
    phases.run()
    packed = load_model(path)
    if packed.batching is Batching.PACKED:
        Phases(packed, reference).run()
    return Outcome(
        name,
        SERVED[loaded.batching],
        prefix_cache=phases.prefix_cache,
        cpu_forward=packed.batching is Batching.PACKED,
    )
