"""A decode pass beside which the masks of the constrained rows are computed."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

import mlx.core as mx

from mlxmesh_engine.cache.kv_cache import RowsCache
from mlxmesh_engine.constraints.masks import Masks, MaskThreads
from mlxmesh_engine.evaluation import evaluate_async, token_ids
from mlxmesh_engine.forward.forward_pass import Forward
from mlxmesh_engine.sampling.row_masks import RowMasks
from mlxmesh_engine.scheduling.request import ConstraintState, SequenceKey
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_shared.errors import MeshError


@dataclass(frozen=True, slots=True)
class MaskedScores:
    """The scores (batch, vocab) of a decode pass, and the masks for its constrained rows."""

    scores: mx.array
    masks: RowMasks | None = None
    errors: Mapping[SequenceKey, MeshError] = field(default_factory=dict[SequenceKey, MeshError])
    """Of constrained rows that can have no next token."""


def decode_masked(
    model: Forward,
    inputs: mx.array,
    cache: RowsCache,
    rows: Sequence[ActiveSequence],
    threads: MaskThreads,
) -> MaskedScores:
    """One decode pass. inputs: (batch,), the last token of each row.

    Only if rows are constrained are the inputs read, which waits for the previous step: on a device
    that computes asynchronously after this pass was launched, else before it is computed.
    """
    constrained = [
        (at, row, state)
        for at, row in enumerate(rows)
        if (state := row.request.constraint_state) is not None and not state.free
    ]
    if not constrained:
        return MaskedScores(model.decode(inputs, cache))
    if model.asynchronous:
        scores = model.decode(inputs, cache)
        evaluate_async([scores])
        masks = _start(constrained, inputs, threads).result()
    else:
        pending = _start(constrained, inputs, threads)
        try:
            scores = model.decode(inputs, cache)
        finally:
            # The rows may be restarted: nothing may use their states by then.
            wait([pending])
        masks = pending.result()
    allowed = RowMasks([at for at, _, _ in constrained], len(rows), masks.allowed)
    errors = {constrained[at][1].key: error for at, error in masks.errors.items()}
    return MaskedScores(scores, allowed, errors)


def unseen(row: ActiveSequence, last: int) -> tuple[int, ...]:
    """The tokens of a constrained row that its state has not seen. last: its last token.

    After a verified step these are several.
    """
    state = row.request.constraint_state
    assert state is not None
    missing = row.launched - state.consumed
    if missing <= 1:
        return (last,) * missing
    return tuple(row.output[len(row.output) - missing :])


def _start(
    constrained: Sequence[tuple[int, ActiveSequence, ConstraintState]],
    inputs: mx.array,
    threads: MaskThreads,
) -> Future[Masks]:
    tokens = token_ids(inputs)
    return threads.start(
        [state for _, _, state in constrained],
        [unseen(row, tokens[at]) for at, row, _ in constrained],
    )
