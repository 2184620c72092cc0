"""Log-probabilities of an engine, as the caller gets them. Pure."""

from collections.abc import Callable, Iterator, Sequence

from mlxmesh_generation.domain.request import PromptLogprobs, TokenLogprob
from mlxmesh_generation.placement.sequence import EngineLogprobs

TokenBytes = Callable[[int], bytes]
"""The bytes of a token's text."""
# So that a message stays far below every receiver's size limit.
MAX_PROMPT_TOKENS = 256


def token_logprobs(
    token_ids: Sequence[int], logprobs: EngineLogprobs, token_bytes: TokenBytes
) -> tuple[TokenLogprob, ...]:
    """One for each token."""
    top = tuple(
        TokenLogprob(token_id, logprob, token_bytes(token_id))
        for token_id, logprob in zip(logprobs.top_token_ids, logprobs.top, strict=True)
    )
    width = len(top) // max(1, len(logprobs.chosen))
    return tuple(
        TokenLogprob(
            token_id, chosen, token_bytes(token_id), top[place * width : (place + 1) * width]
        )
        for place, (token_id, chosen) in enumerate(zip(token_ids, logprobs.chosen, strict=True))
    )


class PromptScores:
    """The log-probabilities of one prompt, each passed on once, whatever engines repeat."""

    def __init__(
        self, prompt_token_ids: Sequence[int], token_bytes: TokenBytes, received: int = 0
    ) -> None:
        """received: how many tokens the caller has from another process."""
        self._prompt = prompt_token_ids
        self._token_bytes = token_bytes
        self._sent = received
        self._next = 1

    @property
    def complete(self) -> bool:
        return self._sent >= len(self._prompt)

    def restart(self) -> None:
        """Another engine begins with the prompt's second token."""
        self._next = 1

    def feed(self, logprobs: EngineLogprobs) -> Iterator[PromptLogprobs]:
        """Events of the next tokens that were not passed on before."""
        start, self._next = self._next, self._next + len(logprobs.chosen)
        token_ids = self._prompt[start : self._next]
        scored = token_logprobs(token_ids, logprobs, self._token_bytes)
        if start == 1:
            scored, start = (self._first(), *scored), 0
        return self._events(scored[max(0, self._sent - start) :])

    def finish(self) -> Iterator[PromptLogprobs]:
        """The first token of a prompt that has no other."""
        return self._events(() if self._sent else (self._first(),))

    def _first(self) -> TokenLogprob:
        return TokenLogprob(self._prompt[0], None, self._token_bytes(self._prompt[0]))

    def _events(self, scored: tuple[TokenLogprob, ...]) -> Iterator[PromptLogprobs]:
        self._sent += len(scored)
        for start in range(0, len(scored), MAX_PROMPT_TOKENS):
            yield PromptLogprobs(scored[start : start + MAX_PROMPT_TOKENS])
