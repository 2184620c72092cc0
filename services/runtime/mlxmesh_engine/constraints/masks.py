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


@dataclass(frozen=True, slots=True)
class Walk:
    """The masks of one row along a proposal."""

    allowed: NDArray[np.bool_]
    """(places, vocab): for the next token, and after each proposed token that is allowed."""
    error: MeshError | None = None
    """Why it can have no next token; its mask then allows everything."""


class MaskThreads:
    """The threads that compute masks; they start when they are first needed."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def start(
        self, states: Sequence[ConstraintState], tokens: Sequence[Sequence[int]]
    ) -> Future[Masks]:
        """Computes the masks after these tokens, those that a state has not seen yet.

        Until the result is there, nobody else may use the states.
        """
        return self._coordinator.submit(self._compute, states, tokens)

    def start_walks(
        self,
        states: Sequence[ConstraintState],
        tokens: Sequence[Sequence[int]],
        proposals: Sequence[Sequence[int]],
    ) -> Future[list[Walk]]:
        """As `start`, also for the places after the tokens of proposals.

        A walk ends before the first token that is not allowed, or after which nothing is.
        """
        return self._coordinator.submit(self._walk, states, tokens, proposals)

    def _walk(
        self,
        states: Sequence[ConstraintState],
        tokens: Sequence[Sequence[int]],
        proposals: Sequence[Sequence[int]],
    ) -> list[Walk]:
        first = self._compute(states, tokens)
        allowed = [[mask] for mask in first.allowed]
        # What is only proposed may not be consumed: a fork looks ahead.
        ahead = {
            at: states[at].fork()
            for at, proposal in enumerate(proposals)
            if proposal and at not in first.errors
        }
        for depth in range(max((len(proposal) for proposal in proposals), default=0)):
            ahead = {
                at: fork
                for at, fork in ahead.items()
                if depth < len(proposals[at]) and allowed[at][-1][proposals[at][depth]]
            }
            due = list(ahead)
            if not due:
                break
            masks = self._compute(
                [ahead[at] for at in due], [(proposals[at][depth],) for at in due]
            )
            for place, at in enumerate(due):
                if place in masks.errors:
                    del ahead[at]
                else:
                    allowed[at].append(masks.allowed[place])
        return [Walk(np.stack(own), first.errors.get(at)) for at, own in enumerate(allowed)]

    def _compute(self, states: Sequence[ConstraintState], tokens: Sequence[Sequence[int]]) -> Masks:
        for state, unseen in zip(states, tokens, strict=True):
            for token in unseen:
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
