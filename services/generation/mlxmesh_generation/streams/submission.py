"""One output's sequence on its current engine."""

import time
from collections.abc import Collection, Sequence

from mlxmesh_generation.placement.sequence import (
    EngineSequence,
    Placer,
    SequenceRequest,
    SequenceSink,
)
from mlxmesh_generation.streams.plan import Plan, output_seed
from mlxmesh_generation.streams.telemetry import OutputObserver
from mlxmesh_shared.errors import DeadlineExceeded

# The engine's deadline comes first, so that its last output reaches the caller in time.
DEADLINE_MARGIN_S = 0.05


class Submission:
    """Submits an output of a plan to one engine after another."""

    def __init__(
        self, plan: Plan, engines: Placer, observer: OutputObserver, *, index: int = 0
    ) -> None:
        self._plan = plan
        self._seed = output_seed(plan.seed, index)
        self._engines = engines
        self._observer = observer
        self._max_tokens = plan.max_tokens
        self._sequence: EngineSequence | None = None
        self.submitted_s = plan.received_s
        """When an engine was last tried, in time.monotonic()."""

    @property
    def engine_id(self) -> str:
        """The current or last engine; empty before the first one."""
        return self._sequence.engine_id if self._sequence else ""

    @property
    def sequence(self) -> EngineSequence | None:
        """The current or last one; None before the first one."""
        return self._sequence

    def submit(
        self,
        sink: SequenceSink,
        generated_token_ids: Sequence[int],
        *,
        isolated: bool,
        avoid: Collection[str],
        prompt_logprobs: bool = False,
        shares_prefill_of: EngineSequence | None = None,
    ) -> None:
        """Raises: NoReplica, QueueFull, DeadlineExceeded."""
        self.submitted_s = time.monotonic()
        request = SequenceRequest(
            request=self._plan.request,
            prompt_token_ids=self._plan.prompt_token_ids,
            max_tokens=self._max_tokens,
            seed=self._seed,
            timeout_ms=self._timeout_ms(),
            generated_token_ids=generated_token_ids,
            isolated=isolated,
            traceparent=self._observer.start_attempt(),
            constraint=self._plan.constraint,
            adapter=self._plan.adapter,
            prompt_logprobs=prompt_logprobs,
            shares_prefill_of=shares_prefill_of,
            images=self._plan.images,
        )
        self._sequence = self._engines.place(self._plan.version, request, sink, avoid=avoid)
        self._observer.placed(self._sequence.engine_id)

    def halve_max_tokens(self) -> bool:
        """Halves a default length; False when the caller chose it or it cannot be halved.

        An engine's context may be shorter than its model's.
        """
        if self._plan.request.max_tokens is not None or self._max_tokens == 1:
            return False
        self._max_tokens //= 2
        return True

    def cancel(self) -> None:
        """Asks the engine to end the sequence; its last output still arrives."""
        if self._sequence is not None:
            self._sequence.cancel()

    def drop(self) -> None:
        """Releases the engine at once; no output follows."""
        if self._sequence is not None:
            self._sequence.drop()

    def _timeout_ms(self) -> int | None:
        if self._plan.deadline_s is None:
            return None
        left_s = self._plan.deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline passed before the request reached an engine")
        return max(1, round((left_s - min(DEADLINE_MARGIN_S, left_s / 10)) * 1000))
