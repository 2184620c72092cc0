"""All sequences of one engine, and the outputs of the current step. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from mlxmesh_engine.scheduling.request import (
    FinishReason,
    Logprobs,
    SequenceKey,
    SequenceRequest,
    StepOutputs,
    Update,
)
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.scheduling.shared_prefill import leader_for
from mlxmesh_shared.errors import DeadlineExceeded, MeshError


class SequenceTable:
    """Adds sequences, emits their updates and ends them; `on_remove` releases their resources."""

    def __init__(self, *, on_remove: Callable[[ActiveSequence], None]) -> None:
        self._on_remove = on_remove
        self._actives: dict[SequenceKey, ActiveSequence] = {}
        self._outputs: StepOutputs = {}

    def __len__(self) -> int:
        return len(self._actives)

    def __iter__(self) -> Iterator[ActiveSequence]:
        return iter(self._actives.values())

    def add(self, request: SequenceRequest) -> ActiveSequence:
        active = ActiveSequence(request)
        if request.shares_prefill_of is not None:
            active.leader = leader_for(active, self._actives.get(request.shares_prefill_of))
        self._actives[request.key] = active
        return active

    def append_tokens(
        self,
        active: ActiveSequence,
        tokens: tuple[int, ...],
        now_s: float,
        *,
        deferrable: bool = False,
        logprobs: Logprobs | None = None,
    ) -> None:
        """Emits tokens; ends the sequence if the last is an end token or the last one allowed."""
        active.append_tokens(tokens, now_s)
        update = Update(active.key[1], token_ids=tokens, logprobs=logprobs)
        if tokens[-1] in active.request.end_token_ids:
            reason = FinishReason.STOP
        elif active.generated_tokens >= active.request.max_tokens:
            reason = FinishReason.LENGTH
        else:
            due: Update | None = update
            if active.request.background:
                due, deferrable = active.hold(update, now_s), True
            if due is not None:
                self.emit(active, replace(due, deferrable=deferrable))
            return
        self._end(active, replace(update, finish_reason=reason, timings=active.timings(now_s)))

    def cancel(self, key: SequenceKey, now_s: float) -> None:
        if (active := self._actives.get(key)) is not None:
            reason, timings = FinishReason.CANCELLED, active.timings(now_s)
            self._end(active, Update(key[1], finish_reason=reason, timings=timings))

    def fail(self, active: ActiveSequence, error: MeshError, now_s: float) -> None:
        self._end(active, Update(active.key[1], error=error, timings=active.timings(now_s)))

    def fail_expired(self, now_s: float) -> None:
        """Ends every sequence whose deadline has passed."""
        for active in list(self._actives.values()):
            deadline_s = active.request.deadline_s
            if deadline_s is not None and now_s >= deadline_s:
                self.fail(active, DeadlineExceeded("the deadline passed; allow more time"), now_s)

    def drop_stream(self, stream_id: int) -> None:
        """Removes a stream's sequences without a last update."""
        for active in [each for each in self._actives.values() if each.key[0] == stream_id]:
            self._remove(active)

    def emit(self, active: ActiveSequence, update: Update) -> None:
        self._outputs.setdefault(active.key[0], []).append(update)

    @property
    def has_outputs(self) -> bool:
        return bool(self._outputs)

    def pop_outputs(self) -> StepOutputs:
        """Returns what was emitted since the last call."""
        outputs, self._outputs = self._outputs, {}
        return outputs

    def _end(self, active: ActiveSequence, last: Update) -> None:
        if (held := active.release()) is not None:
            last = held.followed_by(last)
        self.emit(active, last)
        self._remove(active)

    def _remove(self, active: ActiveSequence) -> None:
        active.ended = True
        self._actives.pop(active.key, None)
        self._on_remove(active)
