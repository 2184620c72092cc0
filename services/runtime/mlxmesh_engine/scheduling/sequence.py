"""One sequence in the engine: its tokens, its progress and its timings. Pure."""

from collections.abc import Sequence

from mlxmesh_engine.scheduling.request import SequenceKey, SequenceRequest, Timings, Update

# Prefilling a shorter prompt in one step takes little time, and its stream starts to count.
_LONG_PROMPT_TOKENS = 256
# A message costs every process on its way more than a token, and nobody waits for these.
_HOLD_S = 0.2


class ActiveSequence:
    """A request and how far it was processed; owned by the thread that runs the steps."""

    def __init__(self, request: SequenceRequest) -> None:
        self.request = request
        self.tokens = request.prompt + request.generated
        self.output: list[int] = []
        """The tokens that this engine generated."""
        self.cached_tokens = 0
        """How many of `tokens`, from the first on, the prefix cache holds."""
        self.prefix_version: int | None = None
        """The version of the prefix cache at the last look-up."""
        self.pause_at: int | None = None
        """After how many of `tokens` prefill pauses, so that the prefix cache gets a state."""
        self.prefilled = 0
        self.scored_tokens = 0
        """How many prompt tokens have passed the log-probability of their successor on."""
        self.leader: ActiveSequence | None = None
        """The sequence whose prefill may serve this one as well."""
        self.launched = len(request.generated)
        """Tokens whose computation was launched, which is the position of the next draw."""
        self.proposed_tokens = 0
        """Tokens that speculation proposed for it."""
        self.accepted_tokens = 0
        """How many of these are among its output."""
        self.ended = False
        self.isolated = request.isolated
        """Whether it must not share a batch with other sequences."""
        self.slot = 0
        """The slot of its adapter while it runs; 0 for none."""
        self.requeued = False
        """Whether it had to give up its keys and values, and is prefilled again."""
        self._cached_at_first = 0
        self._held: Update | None = None
        self._held_since_s = 0.0
        self._admitted_s: float | None = None
        self._first_token_s: float | None = None
        self._last_token_s = request.submitted_s

    @property
    def key(self) -> SequenceKey:
        return self.request.key

    @property
    def prefill_tokens(self) -> int:
        """Tokens to prefill; the last token is the input of the first decode step."""
        return len(self.tokens) - 1

    @property
    def remaining_prefill(self) -> int:
        return self.prefill_tokens - self.prefilled

    @property
    def prefill_started(self) -> bool:
        return self.prefilled > self.cached_tokens

    @property
    def generated_tokens(self) -> int:
        """Tokens generated so far, by this engine and by earlier ones."""
        return len(self.request.generated) + len(self.output)

    @property
    def long(self) -> bool:
        """Whether prefilling its prompt in one step would stall the sequences that decode."""
        return self.prefill_tokens - self.cached_tokens > _LONG_PROMPT_TOKENS

    @property
    def cached_prompt_tokens(self) -> int:
        if self.requeued:
            return self._cached_at_first
        return min(self.cached_tokens, len(self.request.prompt))

    @property
    def prefilled_prompt_tokens(self) -> int:
        """The first decode step processes the last token, which counts once prefill is complete."""
        prompt_tokens = len(self.request.prompt)
        return prompt_tokens if not self.remaining_prefill else min(self.prefilled, prompt_tokens)

    @property
    def prompt_scores(self) -> range:
        """The prompt tokens after which the scores are still needed, for log-probabilities."""
        options = self.request.logprobs
        wanted = options is not None and options.prompt
        return range(self.scored_tokens, len(self.request.prompt) - 1 if wanted else 0)

    @property
    def needs_prompt_scores(self) -> bool:
        """Whether its prompt must be prefilled from the first token on, without cached ones."""
        return bool(self.prompt_scores)

    @property
    def kv_token_ids(self) -> tuple[int, ...]:
        """The tokens in its row of the decode batch's cache: all that went into the model."""
        count = len(self.request.prompt) + self.launched - 1
        return (*self.request.prompt, *self.request.generated, *self.output)[:count]

    def prefix_ids_of(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """What tokens that begin this sequence, or all of them, are in the prefix cache."""
        images = self.request.images
        return tokens if images is None else images.prefix_ids_of(tokens)

    def skip_cached(self, cached_tokens: int) -> None:
        """Starts prefill after the tokens that the prefix cache holds."""
        self.cached_tokens = self.prefilled = cached_tokens

    def isolate(self) -> None:
        """Restarts it alone, after all tokens it generated; no step may be running for it."""
        self.isolated = True
        self._restart()

    def requeue(self) -> None:
        """Restarts it after all tokens it generated; no step may be running for it."""
        if not self.requeued:
            self._cached_at_first = self.cached_prompt_tokens
        self.requeued = True
        self.leader = None
        self._restart()

    def _restart(self) -> None:
        self.tokens = self.request.prompt + self.request.generated + tuple(self.output)
        self.prefix_version = None
        self.skip_cached(0)

    def hold(self, update: Update, now_s: float) -> Update | None:
        """Adds an update of a background sequence; returns what is due."""
        if self._held is None:
            self._held, self._held_since_s = update, now_s
        else:
            self._held = self._held.followed_by(update)
        return self.release() if now_s - self._held_since_s >= _HOLD_S else None

    def release(self) -> Update | None:
        """What was held back; None if nothing was."""
        held, self._held = self._held, None
        return held

    def admit(self, now_s: float) -> None:
        if self._admitted_s is None:
            self._admitted_s = now_s

    def append_tokens(self, tokens: Sequence[int], now_s: float) -> None:
        if self._first_token_s is None:
            self._first_token_s = now_s
        self.output += tokens
        self._last_token_s = now_s

    def timings(self, ended_s: float) -> Timings:
        """The duration of each phase; 0 for a phase that had not begun when it ended."""
        admitted_s = ended_s if self._admitted_s is None else self._admitted_s
        if self._first_token_s is None:
            first_token_s = last_token_s = ended_s
        else:
            first_token_s, last_token_s = self._first_token_s, self._last_token_s
        return Timings(
            queue_ms=(admitted_s - self.request.submitted_s) * 1e3,
            prefill_ms=(first_token_s - admitted_s) * 1e3,
            decode_ms=(last_token_s - first_token_s) * 1e3,
            cached_tokens=self.cached_prompt_tokens,
            output_tokens=len(self.output),
            proposed_tokens=self.proposed_tokens,
            accepted_tokens=self.accepted_tokens,
        )
