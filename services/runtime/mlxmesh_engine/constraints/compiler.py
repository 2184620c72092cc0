"""Compiles constraints off the event loop: each distinct grammar once, within limits."""

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

import numpy as np
from llguidance import LLMatcher

from mlxmesh_engine.constraints.grammars import (
    check_text,
    for_llguidance,
    refusal,
    too_complex,
)
from mlxmesh_engine.constraints.limits import ConstraintLimits, parser_limits
from mlxmesh_engine.constraints.tokenizer import Vocabulary, load_vocabulary, mask_words
from mlxmesh_engine.constraints.trials import TrialModel, Trials
from mlxmesh_engine.constraints.walker import ALL_TOKENS, Walker
from mlxmesh_engine.scheduling.request import Constraint, Grammar, SequenceRequest
from mlxmesh_shared.errors import InvalidArgument, MeshError

_DEFAULT_LIMITS = ConstraintLimits()
_THREADS = 2
# An entry of the cache costs so much beside what the trial measured.
_ENTRY_BYTES = 65_536
_BYTES_PER_CHARACTER = 32


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A grammar in its first state, or why there is none."""

    matcher: LLMatcher | None
    error: MeshError | None
    nbytes: int
    lasting: bool = True
    """Whether another compilation would have the same result."""


class ConstraintCompiler:
    """Used on the event loop; compiles on threads. Trials in other processes come first."""

    def __init__(
        self,
        model_dir: Path,
        *,
        vocab_size: int,
        eos_token_ids: frozenset[int],
        limits: ConstraintLimits = _DEFAULT_LIMITS,
    ) -> None:
        self._model = TrialModel(model_dir, vocab_size, eos_token_ids)
        self._limits = limits
        self._trials = Trials(self._model, limits.compile_timeout_s)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="constraints")
        self._walks = ThreadPoolExecutor(1, thread_name_prefix="constraint-walks")
        self._slots = asyncio.Semaphore(_THREADS)
        self._callers: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._running: dict[Grammar, _Shared] = {}
        self._cache: OrderedDict[Grammar, _Compiled] = OrderedDict()
        self._cached_bytes = 0
        self._loading = Lock()
        self.compilations = 0
        """Since the start."""

    @property
    def cached_bytes(self) -> int:
        """The estimated memory of the cache."""
        return self._cached_bytes

    @property
    def trial_pids(self) -> list[int]:
        """The idle processes of trials."""
        return self._trials.pids

    async def walker(self, request: SequenceRequest) -> Walker:
        """The state of a request's constraint after its `generated` tokens.

        Raises: ConstraintInvalid, ConstraintTooComplex, FeatureNotSupported, InvalidArgument if
        `generated` does not follow the constraint, ServiceUnavailable.
        """
        constraint = request.constraint
        assert constraint is not None
        prototype = None
        if constraint.grammar is not None:
            prototype = await self._prototype(constraint.grammar, request.caller)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._walks, self._walk, constraint, prototype, request)

    def close(self) -> None:
        self._trials.close()
        for threads in (self._threads, self._walks):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _prototype(self, grammar: Grammar, caller: str) -> LLMatcher:
        """Raises: MeshError."""
        compiled = self._cached(grammar) or await self._shared(grammar, caller)
        if compiled.error is not None:
            # Each raise would add its frames to those of earlier requests.
            raise compiled.error.with_traceback(None)
        assert compiled.matcher is not None
        return compiled.matcher

    def _cached(self, grammar: Grammar) -> _Compiled | None:
        if grammar in self._cache:
            self._cache.move_to_end(grammar)
        return self._cache.get(grammar)

    async def _shared(self, grammar: Grammar, caller: str) -> _Compiled:
        """Compiles it once for all who wait; cancelled when none does any more."""
        shared = self._running.get(grammar)
        if shared is None:
            task = asyncio.create_task(self._compile_in_turn(grammar, caller))
            shared = self._running[grammar] = _Shared(task)
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if not shared.waiting:
                shared.task.cancel()
                # After a cancellation it may be another's.
                if self._running.get(grammar) is shared:
                    del self._running[grammar]

    async def _compile_in_turn(self, grammar: Grammar, caller: str) -> _Compiled:
        """One at a time for each caller, so that nobody's grammars occupy all threads."""
        lock = self._callers.setdefault(caller, asyncio.Lock())
        async with lock, self._slots:
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._threads, self._compile, grammar)
            try:
                compiled = await asyncio.shield(running)
            except asyncio.CancelledError:
                # The thread cannot be interrupted; its place is free when it ended.
                await asyncio.wait([running])
                raise
        self.compilations += 1
        self._insert(grammar, compiled)
        return compiled

    def _insert(self, grammar: Grammar, compiled: _Compiled) -> None:
        too_large = compiled.nbytes > self._limits.cache_bytes
        if too_large or not compiled.lasting or grammar in self._cache:
            return
        self._cache[grammar] = compiled
        self._cached_bytes += compiled.nbytes
        while self._cached_bytes > self._limits.cache_bytes:
            _, evicted = self._cache.popitem(last=False)
            self._cached_bytes -= evicted.nbytes

    def _compile(self, grammar: Grammar) -> _Compiled:
        """Runs on a thread. Raises: FeatureNotSupported, ServiceUnavailable."""
        vocabulary = self._loaded_vocabulary()
        nbytes = _ENTRY_BYTES + _BYTES_PER_CHARACTER * len(grammar.text)
        try:
            check_text(grammar, self._limits)
            text = for_llguidance(grammar)
            nbytes += self._trials.check(grammar, text)
            matcher = LLMatcher(vocabulary.tokenizer, text, log_level=0, limits=parser_limits())
            if not matcher.is_error():
                # Its first mask is computed here and not in the first step of each sequence.
                matcher.compute_bitmask()
            if matcher.is_error():
                raise refusal(grammar, matcher.get_error())
        except InvalidArgument as error:
            return _Compiled(None, error, nbytes)
        except TimeoutError:
            # The machine may just have been busy.
            what = f"takes longer than {self._limits.compile_timeout_s:g} s to compile"
            return _Compiled(None, too_complex(grammar, what), nbytes, lasting=False)
        return _Compiled(matcher, None, nbytes)

    def _walk(
        self, constraint: Constraint, prototype: LLMatcher | None, request: SequenceRequest
    ) -> Walker:
        """Runs on a thread. Raises: InvalidArgument."""
        walker = Walker(
            matcher=None if prototype is None else prototype.deep_copy(),
            prefix=constraint.prefix,
            end_token_ids=request.end_token_ids,
            known=self._everything if prototype is None else self._loaded_vocabulary().known,
            vocab_size=self._model.vocab_size,
        )
        for token in request.generated:
            walker.consume(token)
        if walker.error:
            raise InvalidArgument(
                f"generated_token_ids do not follow the constraint: {walker.error}",
                field="generated_token_ids",
            )
        return walker

    def _loaded_vocabulary(self) -> Vocabulary:
        """Loads it once. Raises: FeatureNotSupported."""
        with self._loading:
            return self._vocabulary

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        model = self._model
        return load_vocabulary(
            model.model_dir, vocab_size=model.vocab_size, eos_token_ids=model.eos_token_ids
        )

    @cached_property
    def _everything(self) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
        return np.full(mask_words(self._model.vocab_size), ALL_TOKENS, np.int32)


class _Shared:
    """A compilation and how many wait for it."""

    def __init__(self, task: "asyncio.Task[_Compiled]") -> None:
        self.task = task
        self.waiting = 0
