"""Walks one sequence through its constraint; implements `ConstraintState`."""

from copy import copy

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from mlxmesh_engine.constraints.free_prefix import PrefixWalk
from mlxmesh_engine.constraints.grammars import first_line
from mlxmesh_engine.constraints.tokenizer import mask_of
from mlxmesh_engine.scheduling.request import FreePrefix
from mlxmesh_shared.errors import ConstraintFailed

ALL_TOKENS = -1
"""A word of a mask that allows all of its tokens."""


class Walker:
    """Which tokens the prefix, then the grammar allow; used by one thread at a time.

    An end token of the sequence ends it: whatever comes after is not looked at.
    """

    def __init__(
        self,
        *,
        matcher: LLMatcher | None,
        prefix: FreePrefix | None,
        end_token_ids: frozenset[int],
        known: NDArray[np.int32],
        vocab_size: int,
    ) -> None:
        """matcher: of the grammar, owned by the walker; known: a mask of the tokens that exist."""
        self._matcher = matcher
        self._prefix = None if prefix is None else PrefixWalk(prefix)
        self._end_token_ids = end_token_ids
        self._known = known
        self._free_mask = known & ~mask_of(sorted(end_token_ids), vocab_size)
        self._vocab_size = vocab_size
        self._ended = False
        self._consumed = 0
        self._error = ""

    @property
    def consumed(self) -> int:
        return self._consumed

    @property
    def error(self) -> str:
        """Why the tokens do not follow the constraint; empty if they do."""
        return self._error

    @property
    def free(self) -> bool:
        return self._ended or (self._matcher is None and not self._in_prefix)

    @property
    def matcher(self) -> LLMatcher | None:
        return None if self._ended or self._error or self._in_prefix else self._matcher

    def consume(self, token: int) -> None:
        self._consumed += 1
        if self._ended or self._error:
            return
        if self._prefix is not None and self._in_prefix:
            self._consume_prefix(self._prefix, token)
        elif token in self._end_token_ids:
            self._end_grammar(token)
        elif self._matcher is not None and not self._matcher.consume_token(token):
            self._error = first_line(self._matcher.get_error())

    def fork(self) -> "Walker":
        """A walker at the same place, to look ahead with; it goes its own way."""
        fork = copy(self)
        fork._prefix = copy(self._prefix)
        if self._matcher is not None:
            fork._matcher = self._matcher.deep_copy()
        return fork

    def complete(self, mask: NDArray[np.int32]) -> None:
        matcher = self.matcher
        if self._error:
            mask[:] = ALL_TOKENS
            raise _failed(self._error)
        if matcher is not None:
            self._check(matcher, mask)
        else:
            mask[:] = self._prefix_mask()

    @property
    def _in_prefix(self) -> bool:
        return self._prefix is not None and not self._prefix.ended

    def _consume_prefix(self, prefix: PrefixWalk, token: int) -> None:
        if (forced := prefix.forced) not in (None, token):
            self._error = f"token {forced} had to follow, but {token} did"
        prefix.consume(token)
        if token in self._end_token_ids:
            self._ended = True

    def _end_grammar(self, token: int) -> None:
        """A sequence may end where its grammar allows the token; a replayed one may not have."""
        if self._matcher is not None and self._matcher.validate_tokens([token]) != 1:
            self._error = f"the end token {token} came before the grammar was complete"
        self._ended = True

    def _prefix_mask(self) -> NDArray[np.int32]:
        """Before the grammar: everything but the sequence's end, or the forced token only."""
        if self._ended or self._prefix is None or self._prefix.ended:
            return np.full_like(self._known, ALL_TOKENS)
        if (forced := self._prefix.forced) is not None:
            return mask_of([forced], self._vocab_size)
        return self._free_mask

    def _check(self, matcher: LLMatcher, mask: NDArray[np.int32]) -> None:
        """Raises: ConstraintFailed."""
        mask &= self._known
        if matcher.is_error():
            mask[:] = ALL_TOKENS
            raise _failed(first_line(matcher.get_error()))
        if not mask.any():
            mask[:] = ALL_TOKENS
            raise _failed("no token continues it")


def _failed(why: str) -> ConstraintFailed:
    return ConstraintFailed(
        f"the constraint got stuck: {why}; simplify its grammar", field="constraint"
    )
