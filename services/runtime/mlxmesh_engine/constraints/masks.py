"""Computes the masks of one decode step on threads, beside the forward pass."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from llguidance import LLExecutor
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from mlxmesh_engine.scheduling.request import ConstraintState
from mlxmesh_shared.errors import MeshError


@dataclass(frozen=True, slots=True)
class Masks:
    """The masks of some rows for their next token."""

    allowed: NDArray[np.bool_]
    """(rows, vocab)"""
    errors: dict[int, MeshError]
    """Why a row, by its place, can have no next token; its mask allows everything."""


class MaskThreads:
    """The threads that compute masks; they start when they are first needed."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def start(
        self, states: Sequence[ConstraintState], tokens: Sequence[int | None]
    ) -> Future[Masks]:
        """Computes the masks after these tokens; None where the state has seen all tokens.

        Until the result is there, nobody else may use the states.
        """
        return self._coordinator.submit(self._compute, states, tokens)

    def _compute(self, states: Sequence[ConstraintState], tokens: Sequence[int | None]) -> Masks:
        for state, token in zip(states, tokens, strict=True):
            if token is not None:
                state.consume(token)
        words = allocate_token_bitmask(len(states), self._vocab_size)
        matchers = [(state.matcher, at) for at, state in enumerate(states)]
        if due := [(matcher, at) for matcher, at in matchers if matcher is not None]:
            fill_next_token_bitmask_par(self._executor, due, words)
        errors: dict[int, MeshError] = {}
        for at, state in enumerate(states):
            try:
                state.complete(words[at])
            except MeshError as error:
                errors[at] = error
        bits = np.unpackbits(
            words.view(np.uint8), axis=1, count=self._vocab_size, bitorder="little"
        )
        return Masks(bits.view(np.bool_), errors)

    @cached_property
    def _coordinator(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="masks")

    @cached_property
    def _executor(self) -> LLExecutor:
        return LLExecutor()
